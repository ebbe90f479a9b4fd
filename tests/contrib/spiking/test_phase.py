"""Weight estimation of layers and models."""

from __future__ import annotations

import math

import pytest
import torch

import backroads as br
from backroads.contrib.spiking import Drive, Evidence, Phase, RegressionDiscontinuity, estimate
from backroads.errors import ConversionError, RuleError, ShapeError, StateError

HALF = Drive(fraction=0.5)  # of a few neurons, a fifth is one: nobody below would be seen to be inhibited


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)]
    return br.convert(torch.nn.Sequential(*layers), br.rules.feedback_alignment(), generator=0)


def test_spikes_find_the_signs_of_a_small_weight() -> None:
    W = torch.randn(6, 8, generator=seeded(0))
    found = estimate(W, 10.0, copies=6, drive=HALF, generator=seeded(1))
    assert found.known > 0.9
    assert found.seconds == pytest.approx(10)
    assert found.sign_agreement > 0.8
    assert found.angle < 45
    assert found.angle == pytest.approx(br.metrics.angle(found.beta, W))
    assert found.sign_agreement == pytest.approx(float((found.beta.sign() == W.sign()).double().mean()))


def test_a_convolution_keeps_its_layout_with_groups_and_copies() -> None:
    W = torch.randn(6, 2, 2, 2, generator=seeded(0))  # 3 groups of 2 filters over 2 channels
    found = estimate(W, 10.0, groups=3, copies=10, generator=seeded(1))
    assert found.beta.shape == W.shape
    assert found.angle < 50
    for group in range(3):  # each is found in its own place
        assert br.metrics.angle(found.beta[2 * group : 2 * group + 2], W[2 * group : 2 * group + 2]) < 65


def test_more_time_brings_the_estimate_nearer() -> None:
    W = torch.randn(6, 8, generator=seeded(0))
    angles = [estimate(W, seconds, copies=6, drive=HALF, generator=seeded(1)).angle for seconds in (1.0, 10.0)]
    assert angles[1] < angles[0]


def test_a_phase_sets_b_at_its_own_scale_and_leaves_everything_else() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = Phase(net, seconds=12.0, drive=HALF)()
    assert set(found) == {"2", "4"}  # no error comes back through the first layer
    for name, value in net.state_dict().items():
        same = torch.equal(value, before[name])
        assert same == (not name.endswith("backward_weight") or name.startswith("0."))
    for name, result in found.items():
        assert result.known == 1.0
        B = net.get_submodule(name).backward_weight
        torch.testing.assert_close(B.std(), before[f"{name}.backward_weight"].std())
        torch.testing.assert_close(B / B.norm(), result.beta / result.beta.norm())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_phase_teaches_a_convolution_from_pooled_patches(groups: int) -> None:
    """More patches are more windows for the same shared weights."""
    angles = []
    for patches in (1, 8):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, stride=2), torch.nn.ReLU())
        net.append(torch.nn.Conv2d(4, 6, 2, padding=1, groups=groups))
        br.convert(net, br.rules.feedback_alignment(), generator=0)
        before = net[2].backward_weight.clone()
        found = Phase(net, seconds=4.0, drive=HALF, patches=patches)()
        assert set(found) == {"2"}
        B = net[2].backward_weight
        assert B.shape == before.shape
        assert found["2"].seconds == pytest.approx(4)
        angles.append(br.metrics.angle(B, net[2].weight))
    assert angles[1] < angles[0] - 5
    assert angles[1] < 45 < br.metrics.angle(before, net[2].weight)


def test_what_is_not_known_keeps_its_b() -> None:
    net = network()
    before = net[2].backward_weight.clone()
    found = Phase(net, RegressionDiscontinuity(least=100_000), seconds=1.0)()
    assert found["2"].known == 0.0
    assert math.isnan(found["2"].sign_agreement)
    assert torch.equal(net[2].backward_weight, before)


def test_evidence_of_earlier_phases_fades_by_keep() -> None:
    evidence = Evidence.none(1, 2, 3)
    evidence.moments += 4.0
    evidence.responses += 2.0
    evidence.fade(0.25)
    assert evidence.moments.unique().tolist() == [1.0]
    assert evidence.responses.unique().tolist() == [0.5]
    net = network()
    phase = Phase(net, seconds=4.0, keep=0.5)
    phase()
    assert phase()["4"].seconds == pytest.approx(4 + 0.5 * 4)


def test_a_phase_goes_on_from_its_state_as_if_it_had_not_stopped(tmp_path: object) -> None:
    nets = [network(), network()]
    whole, stopped = (Phase(net, seconds=2.0, seed=3) for net in nets)
    for phase in (whole, stopped):
        phase()
    torch.save(stopped.state_dict(), f"{tmp_path}/phase.pt")
    resumed = Phase(nets[1], seconds=2.0, seed=3)
    resumed.load_state_dict(torch.load(f"{tmp_path}/phase.pt", weights_only=True))
    whole()
    resumed()
    for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_wrong_layers_rules_and_states_are_refused() -> None:
    net = network()
    with pytest.raises(ConversionError, match="no layer fits '7'"):
        Phase(net, layers=["7"])
    with pytest.raises(ConversionError, match="feedback_alignment"):
        Phase(br.convert(torch.nn.Linear(3, 2), br.rules.backprop()))
    with pytest.raises(ConversionError, match="no converted layer"):
        Phase(torch.nn.Linear(3, 2))
    with pytest.raises(RuleError, match="keep must be"):
        Phase(net, keep=2.0)
    with pytest.raises(ShapeError, match="a multiple of groups"):
        estimate(torch.randn(3, 2, 2), groups=2)
    phase, other = Phase(net, seconds=1.0), Phase(net, seconds=1.0, layers=["4"])
    phase()
    with pytest.raises(StateError, match="has layer '2'"):
        other.load_state_dict(phase.state_dict())
    with pytest.raises(StateError, match="as state_dict"):
        phase.load_state_dict({"phases": 1})
    assert phase.phases == 1
