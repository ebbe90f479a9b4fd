"""Weight estimation of layers and models."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import backroads as br
from backroads.contrib.spiking import Drive, Evidence, RegressionDiscontinuity, SpikePhase, estimate
from backroads.errors import ConversionError, RuleError, ShapeError, StateError
from backroads.phases import get_phase

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
    phase = SpikePhase(seconds=12.0, drive=HALF)
    assert phase.check(net) == ["2", "4"]  # no error comes back through the first layer
    taught = phase.run(net, seed=0)
    assert taught.layers == ["2", "4"]
    for name, value in net.state_dict().items():
        same = torch.equal(value, before[name])
        assert same == (not name.endswith("backward_weight") or name.startswith("0."))
    assert taught.readings["known"] == {"2": 1.0, "4": 1.0}
    for name in taught.layers:
        layer = net.get_submodule(name)
        beta = phase.rule.jumps(Evidence(**taught.state["evidence"][name]))[0]
        torch.testing.assert_close(layer.backward_weight.std(), before[f"{name}.backward_weight"].std())
        torch.testing.assert_close(layer.backward_weight / layer.backward_weight.norm(), beta / beta.norm())
        assert taught.readings["angle"][name] == pytest.approx(br.metrics.angle(beta, layer.weight))


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
        taught = SpikePhase(seconds=4.0, drive=HALF, patches=patches).run(net, seed=0)
        assert taught.layers == ["2"]
        B = net[2].backward_weight
        assert B.shape == before.shape
        assert taught.readings["seconds"]["2"] == pytest.approx(4)
        angles.append(br.metrics.angle(B, net[2].weight))
    assert angles[1] < angles[0] - 5
    assert angles[1] < 45 < br.metrics.angle(before, net[2].weight)


def test_what_is_not_known_keeps_its_b() -> None:
    net = network()
    before = net[2].backward_weight.clone()
    taught = SpikePhase(RegressionDiscontinuity(least=100_000), seconds=1.0).run(net, seed=0)
    assert taught.readings["known"]["2"] == 0.0
    assert math.isnan(taught.readings["sign_agreement"]["2"])
    assert torch.equal(net[2].backward_weight, before)


def test_evidence_of_earlier_phases_fades_by_keep() -> None:
    evidence = Evidence.none(1, 2, 3)
    evidence.moments += 4.0
    evidence.responses += 2.0
    evidence.fade(0.25)
    assert evidence.moments.unique().tolist() == [1.0]
    assert evidence.responses.unique().tolist() == [0.5]
    net, phase = network(), SpikePhase(seconds=4.0, keep=0.5)
    state = phase.run(net, seed=0).state
    assert phase.run(net, seed=1, state=state).readings["seconds"]["4"] == pytest.approx(4 + 0.5 * 4)


def test_a_phase_goes_on_from_its_state_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    nets, phase = [network(), network()], SpikePhase(seconds=2.0)
    states = [phase.run(net, seed=3).state for net in nets]
    torch.save(states[1], tmp_path / "phase.pt")
    read = torch.load(tmp_path / "phase.pt", weights_only=True)
    last = [phase.run(net, seed=4, state=state).state for net, state in zip(nets, [states[0], read], strict=True)]
    for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(last[0], last[1], rtol=0, atol=0)
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)  # a run leaves the state it was given alone


def test_other_layers_and_other_seeds_find_other_things() -> None:
    phase = SpikePhase(seconds=1.0, layers=["4"])
    betas = [phase.run(network(), seed=seed).state["evidence"] for seed in (0, 0, 1)]
    assert list(betas[0]) == ["4"]
    torch.testing.assert_close(betas[0], betas[1], rtol=0, atol=0)
    assert not torch.equal(betas[0]["4"]["responses"], betas[2]["4"]["responses"])


def test_wrong_layers_rules_and_states_are_refused() -> None:
    net, phase = network(), get_phase("spikes", seconds=1.0)
    with pytest.raises(ConversionError, match="no layer fits '7'"):
        SpikePhase(layers=["7"]).check(net)
    with pytest.raises(ConversionError, match="feedback_alignment"):
        phase.check(br.convert(torch.nn.Linear(3, 2), br.rules.backprop()))
    square = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    with pytest.raises(ConversionError, match="2 has no backward weight of its own in the layout of W"):
        phase.check(br.convert(square, "direct_feedback_alignment"))
    assert SpikePhase(layers="4").check(net) == SpikePhase(layers=["4"]).check(net)
    with pytest.raises(ConversionError, match="no converted layer"):
        phase.check(torch.nn.Linear(3, 2))
    with pytest.raises(RuleError, match="keep must be"):
        SpikePhase(keep=2.0)
    with pytest.raises(ShapeError, match="a multiple of groups"):
        estimate(torch.randn(3, 2, 2), groups=2)
    state = phase.run(net, seed=0).state
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(StateError, match="expected the state of layers 4, got that of 2, 4"):
        SpikePhase(seconds=1.0, layers=["4"]).run(net, seed=1, state=state)
    with pytest.raises(StateError, match="as run"):
        phase.run(net, seed=1, state={"phases": 1})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
