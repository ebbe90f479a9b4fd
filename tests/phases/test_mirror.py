"""Mirror phases: noise teaches B, and nothing else is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from problems import PROBLEMS, small_network
from torch import Tensor

import backroads as br
from backroads.errors import ConfigError, ConversionError, RuleError, UsageError
from backroads.feedback.rules import normalised_mirror
from backroads.phases import PHASES, Phase, Taught, get_phase, register_phase

CORRECTING = normalised_mirror(error_correcting=True)


def agree(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def unit_vectors(noise: br.WhiteNoise, x: Tensor, images: int | None = None, generator: Any = None) -> Tensor:
    """In place of noise: examples whose second moment is exactly std^2 times 1."""
    n = x[0].numel()
    return noise.std * n**0.5 * torch.eye(n, dtype=x.dtype).view(n, *x.shape[1:])


@pytest.mark.parametrize("correcting", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_on_average_a_step_goes_its_rate_of_the_way(
    problem: str, correcting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a convolution's weights that only ever meet padding: a phase needs no image and has no border."""
    monkeypatch.setattr(br.WhiteNoise, "sample", unit_vectors)
    layer = PROBLEMS[problem].layer("feedback_alignment")
    W, B = layer.weight.detach().clone(), layer.backward_weight.detach().clone()
    br.mirror(layer, 3, normalised_mirror(0.5, noise="normal", error_correcting=correcting), rate=0.4)
    agree(layer.backward_weight, W + (1 - 0.2) ** 3 * (B - W))


@pytest.mark.parametrize("name", ["feedback_alignment", "weight_mirror", "normalised_mirror", "kolen_pollack"])
def test_nothing_but_b_changes(name: str) -> None:
    net = small_network(name)
    net.train()
    net[3].eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(3, 2, 6, 6, dtype=torch.float64)).sum().backward()
    optimizer.step()
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    before, of_optimizer = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    modes = [m.training for m in net.modules()]
    draws = torch.get_rng_state()
    learned = br.mirror(net, 5, seed=1)
    assert learned == ["0", "2", "6", "8"]
    assert torch.equal(torch.get_rng_state(), draws)
    assert modes == [m.training for m in net.modules()]
    changed = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {f"{n}.backward_weight" for n in learned}
    agree({n: p.grad for n, p in net.named_parameters()}, grads, 0)
    agree(optimizer.state_dict(), of_optimizer, 0)
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in small_network(name).parameters()]


def test_the_error_correcting_form_brings_b_to_w_and_white_noise_into_its_own() -> None:
    net = small_network("feedback_alignment")
    br.mirror(net, 100, CORRECTING, seed=0)
    assert max(br.metrics.weight_angles(net).values()) < 1e-3
    net = small_network("feedback_alignment")
    br.mirror(net, 100, normalised_mirror(noise="normal"), seed=0)
    assert 0.5 < max(br.metrics.weight_angles(net).values()) < 10


def test_the_seed_says_what_is_drawn() -> None:
    def after(seed: int | None) -> dict[str, Tensor]:
        net = small_network("feedback_alignment")
        br.mirror(net, 2, CORRECTING, seed=seed)
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
    assert len(br.mirror(encoder, 100, CORRECTING, seed=0)) == 6
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
    br.mirror(layer, 60, rule)
    agree(layer.backward_weight, 0.1 / 0.3 * 4 * layer.weight, 1e-6)  # (amp / decay) W C, C = std^2
    seen = br.Alignment(decay=0.5, self_=0.5, drive=noise, view=br.WeightEstimate())
    br.mirror(layer, 60, seen)
    agree(layer.backward_weight, layer.weight)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((-1,), {}, UsageError, "steps must be a whole number"),
        ((1.5,), {}, UsageError, "steps must be"),
        ((1,), {"rate": 0}, UsageError, "rate must be"),
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
    assert names == br.mirror(nets[0], 2, CORRECTING, rate=0.5, seed=7)
    for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("nose", {}, ConfigError, "unknown phase 'nose'. Did you mean 'noise'"),
        ("noise", {"steps": 2, "rte": 1}, ConfigError, "takes no option 'rte'. Did you mean 'rate'"),
        ("noise", {"steps": -1}, UsageError, "steps must be a whole number >= 0"),
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
