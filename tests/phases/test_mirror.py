"""Mirror phases: noise teaches B, and nothing else is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from problems import PROBLEMS, agree, small_network, unit_vectors
from torch import Tensor

import backroads as br
from backroads.errors import ConfigError, ConversionError, RuleError
from backroads.feedback.rules import error_correcting_mirror, white_noise_mirror
from backroads.phases import PHASES, Phase, Taught, get_phase, register_phase

CORRECTING = error_correcting_mirror()


@pytest.mark.parametrize("make", [white_noise_mirror, error_correcting_mirror])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_on_average_a_step_goes_its_rate_of_the_way(problem: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a convolution's weights that only ever meet padding: a phase needs no image and has no border."""
    monkeypatch.setattr(br.WhiteNoise, "sample", unit_vectors)
    layer = PROBLEMS[problem].layer("feedback_alignment")
    W, B = layer.weight.detach().clone(), layer.backward_weight.detach().clone()
    br.mirror(layer, rule=make(0.5), steps=3, rate=0.4)
    agree(layer.backward_weight, W + (1 - 0.2) ** 3 * (B - W))


@pytest.mark.parametrize("name", ["feedback_alignment", "weight_mirror", "kolen_pollack", "mirrored_kolen_pollack"])
@pytest.mark.parametrize("rule", [None, CORRECTING], ids=["mean", "rule"])
def test_nothing_but_b_changes(name: str, rule: br.Alignment | None) -> None:
    net = small_network(name)
    net.train()
    net[3].eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(3, 2, 6, 6, dtype=torch.float64)).sum().backward()
    optimizer.step()
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    of_optimizer = copy.deepcopy(optimizer.state_dict())
    modes = [m.training for m in net.modules()]
    draws = torch.get_rng_state()
    for _, layer in br.aligned_layers(net):
        layer.rule.settle(layer.state)  # what else carries the error back is a part of B
    before = copy.deepcopy(net.state_dict())
    learned = br.mirror(net, 5.0, rule, steps=5, seed=1)
    assert learned == ["0", "2", "6", "8"]
    assert torch.equal(torch.get_rng_state(), draws)
    assert modes == [m.training for m in net.modules()]
    changed = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
    assert {n for n in changed if not n.endswith("variance")} == {f"{n}.backward_weight" for n in learned}
    agree({n: p.grad for n, p in net.named_parameters()}, grads, 0)
    agree(optimizer.state_dict(), of_optimizer, 0)
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in small_network(name).parameters()]


def test_the_error_correcting_form_brings_b_to_w_and_white_noise_into_its_own() -> None:
    net = small_network("feedback_alignment")
    br.mirror(net, rule=CORRECTING, steps=100, seed=0)
    assert max(br.metrics.weight_angles(net).values()) < 1e-3
    net = small_network("feedback_alignment")
    br.mirror(net, rule=white_noise_mirror(), steps=100, seed=0)
    assert 0.5 < max(br.metrics.weight_angles(net).values()) < 10


def test_a_b_of_zeros_comes_to_w_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backroads.phases.noise.MOST_NUMBERS", 2**9)  # several draws of noise a layer
    net = small_network("feedback_alignment")
    with torch.no_grad():
        for _, layer in br.aligned_layers(net):
            layer.backward_weight.zero_()
    br.mirror(net, seed=0)
    assert max(br.metrics.weight_angles(net).values()) < 10
    assert all(0.8 < ratio < 1.2 for ratio in br.metrics.norm_ratios(net).values())


def test_the_seed_says_what_is_drawn() -> None:
    def after(seed: int | None) -> dict[str, Tensor]:
        net = small_network("feedback_alignment")
        br.mirror(net, rule=CORRECTING, steps=2, seed=seed)
        return net.state_dict()

    agree(after(3), after(3), 0)
    assert not torch.equal(after(3)["0.backward_weight"], after(4)["0.backward_weight"])
    torch.manual_seed(0)
    drawn = after(None)
    assert not torch.equal(drawn["0.backward_weight"], after(None)["0.backward_weight"])
    torch.manual_seed(0)
    agree(after(None), drawn, 0)


def test_layers_without_a_b_of_their_own_are_left_out_and_attention_is_not() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    br.convert(net, {"0": br.rules.feedback_alignment(), "1": br.rules.sign_symmetry(), "2": br.rules.backprop()})
    assert br.mirror(net, 1) == ["0"]
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64)
    br.convert(encoder, "feedback_alignment")
    assert len(br.mirror(encoder, rule=CORRECTING, steps=100, seed=0)) == 6
    assert max(br.metrics.weight_angles(encoder).values()) < 1e-2


def test_a_mirror_with_an_imperfect_estimate_or_coefficients_of_its_own_is_one_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(br.WhiteNoise, "sample", unit_vectors)
    layer = PROBLEMS["linear"].layer("feedback_alignment")
    noise = br.WhiteNoise(images=7, std=2.0)
    rule = br.rules.weight_mirror(
        0.1, 0.3, reduction="mean", operations=br.Operations(), cadence=br.Cadence(), drive=noise
    )
    br.mirror(layer, rule=rule, steps=60)
    agree(layer.backward_weight, 0.1 / 0.3 * 4 * layer.weight, 1e-6)  # (amp / decay) W C, C = std^2
    seen = br.Alignment(decay=0.5, self_=0.5, drive=noise, view=br.WeightEstimate())
    br.mirror(layer, rule=seen, steps=60)
    agree(layer.backward_weight, layer.weight)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0,), {}, RuleError, "rows must be > 0, got 0"),
        ((), {"rule": CORRECTING, "steps": -1}, RuleError, "steps must be a whole number"),
        ((), {"rule": CORRECTING, "steps": 1.5}, RuleError, "steps must be"),
        ((1,), {"rate": 0}, RuleError, "rate must be"),
        ((1, br.rules.weight_mirror()), {}, RuleError, "expected an Alignment on a drive"),
        (
            (1, br.rules.weight_mirror(drive=br.WhiteNoise())),
            {},
            RuleError,
            "expected an Alignment on a drive",
        ),
        ((1, br.rules.sign_symmetry()), {}, RuleError, "expected an Alignment on a drive"),
        ((1, br.Alignment(amp=1, tie_grad=True, drive=br.WhiteNoise(images=1))), {}, RuleError, "without"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_and_nothing_changes(
    arguments: Any, options: Any, error: type[Exception], message: str
) -> None:
    net = small_network("feedback_alignment")
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error, match=message):
        br.mirror(net, *arguments, **options)
    agree(net.state_dict(), before, 0)


def test_a_model_without_backward_weights_is_refused() -> None:
    for net in (torch.nn.Linear(2, 2), small_network("sign_symmetry")):
        with pytest.raises(ConversionError, match="no layer of this model has backward weights"):
            br.mirror(net, 1)


def test_the_noise_phase_is_mirror_with_options_as_data() -> None:
    nets = [small_network("feedback_alignment") for _ in range(2)]
    phase = get_phase("noise", steps=2, rule=CORRECTING.to_dict(), rate=0.5)
    before = copy.deepcopy(nets[1].state_dict())
    names = phase.check(nets[1])
    assert all(torch.equal(value, before[name]) for name, value in nets[1].state_dict().items())
    taught = phase.run(nets[1], seed=7)
    assert taught == Taught(names)
    assert names == br.mirror(nets[0], rule=CORRECTING, steps=2, rate=0.5, seed=7)
    for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("nose", {}, ConfigError, "unknown phase 'nose'. Did you mean 'noise'"),
        ("noise", {"steps": 2, "rte": 1}, ConfigError, "takes no option 'rte'. Did you mean 'rate'"),
        ("noise", {"steps": -1}, RuleError, "steps must be a whole number >= 0"),
        ("torch.nn:Identity", {}, ConfigError, r"expected a backroads\.phases\.Phase, got Identity"),
    ],
)
def test_wrong_phases_are_answered(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        get_phase(name, **options)


def test_a_phase_of_your_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(Phase):
        def check(self, model: torch.nn.Module) -> list[str]:
            return []

        def run(self, model: torch.nn.Module, seed: int, state: dict[str, Any] | None = None) -> Taught:
            return Taught([], {"seed": seed})

    monkeypatch.setattr(PHASES, "_entries", dict(PHASES._entries))
    register_phase("nothing", Nothing)
    assert get_phase("nothing").run(torch.nn.Identity(), 3).state == {"seed": 3}


@pytest.mark.parametrize("rows", [2.0, 131.0])
@pytest.mark.parametrize(
    "problem", ["linear", "conv1d", "conv2d", "conv2d dilated in groups", "conv2d circular", "conv3d"]
)
def test_after_so_many_rows_per_input_the_difference_is_the_predicted_one(problem: str, rows: float) -> None:
    """|B - W|^2 = |W|^2 / (1/2 + rows) where |B| is |W| at the start: the mean over draws, within 5 standard errors."""
    ratios = []
    for seed in range(40):
        torch.manual_seed(seed)
        layer = PROBLEMS[problem].make(rule="kolen_pollack", dtype=torch.float64)
        with torch.no_grad():
            B = torch.randn_like(layer.weight)
            layer.backward_weight.copy_(B * layer.weight.norm() / B.norm())
        br.mirror(layer, rows, seed=seed)
        D = (layer.backward_weight - layer.weight).detach()
        ratios.append(float(D.square().sum() / layer.weight.detach().square().sum()) * (0.5 + rows))
    found = torch.tensor(ratios)
    inputs = layer.weight[0].numel()
    kurtosis = 1 / inputs  # of xi: its own input adds 2, not 1, to the I that the others add
    assert abs(float(found.mean()) - 1 - kurtosis) < 5 * float(found.std()) / len(ratios) ** 0.5 + 0.1


def test_noise_in_pieces_is_the_noise_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is drawn at a time: the filter's estimate is the mean over all rows, where |B| stays the same."""
    angles = []
    for most in (2**22, 200):
        monkeypatch.setattr("backroads.phases.noise.MOST_NUMBERS", most)
        layer = br.nn.Linear(20, 300, rule="feedback_alignment", dtype=torch.float64)
        br.mirror(layer, 131.0, seed=0)
        angles.append(max(br.metrics.weight_angles(layer).values()))
    assert angles == pytest.approx([5.0, 5.0], abs=0.8)  # one draw of 20 by 20 second moments


def test_the_mirrored_rule_goes_on_from_a_phase() -> None:
    net = small_network("mirrored_kolen_pollack")
    br.mirror(net, 131.0, seed=0)
    for name, layer in br.aligned_layers(net):
        assert layer.rule.predicted_angle(layer.state) == pytest.approx(5.0, abs=2.0), name


def test_a_phase_weighs_what_the_mirrored_rule_knows_already() -> None:
    """E|B - W|^2 / |W|^2 = 1 / (1/2 + rows) after 400 rows of the rule, and 1 / (1/2 + 404) after four of the phase."""
    torch.manual_seed(0)
    layer = br.nn.Linear(64, 64, rule=br.rules.mirrored_kolen_pollack(rows=64.0 * 40, every=1), dtype=torch.float64)
    opt = torch.optim.SGD(br.param_groups(layer, lr=1e-12, momentum=0.0))
    for _ in range(10):
        opt.zero_grad()
        layer(torch.randn(64 * 40, 64, dtype=torch.float64).requires_grad_()).sum().backward()
        opt.step()
    layer.eval()

    def share() -> float:
        D = (layer.feedback_weight() - layer.weight).detach()
        return float(D.square().sum() / layer.weight.detach().square().sum())

    assert share() == pytest.approx(1 / 400.5, rel=0.1)
    br.mirror(layer, 4.0, seed=0)
    assert share() == pytest.approx(1 / 404.5, rel=0.1)
