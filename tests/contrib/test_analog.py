"""Layers of two crossbars, read as aihwkit reads its tiles."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import backroads as br
from backroads.errors import ConversionError

pytest.importorskip("aihwkit", reason="aihwkit is not installed: pip install 'backroads[analog]'")
from aihwkit.nn.conversion import convert_to_analog
from aihwkit.simulator.configs import TorchInferenceRPUConfig
from aihwkit.simulator.parameters.io import IOParameters
from aihwkit.simulator.tiles.analog_mvm import AnalogMVM

from backroads.contrib.analog import two_arrays

PERFECT = IOParameters(is_perfect=True)
# Rounds what comes in and out, to 32 and 64 levels; no noise, and bounds that are not met.
COARSE = IOParameters(inp_res=1 / 32, out_res=1 / 64, out_noise=0.0, out_bound=1000.0)


def network(rule: str) -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 5, (2, 3), padding="same", dilation=2, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(5 * 4 * 4, 6),
    )
    return br.convert(net, rule, generator=0)


def gradients(net: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    net.zero_grad()
    F.cross_entropy(net(x), torch.arange(x.shape[0]) % 6).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rule", ["feedback_alignment", "kolen_pollack", "mirrored_kolen_pollack", "weight_mirror"])
def test_perfect_arrays_compute_what_the_digital_layers_do(rule: str) -> None:
    """Outputs, errors and all gradients, those of the rule included, whose noise is drawn alike."""
    digital = network(rule)
    analog = two_arrays(copy.deepcopy(digital), forward=PERFECT, backward=PERFECT)
    x = torch.randn(7, 3, 8, 7).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    torch.testing.assert_close(analog(x), digital(x))
    expected, found = gradients(digital, x), gradients(analog, twin)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(twin.grad, x.grad, rtol=1e-4, atol=1e-6)


def test_each_array_has_its_own_reads() -> None:
    """y is aihwkit's product with W alone, dx that with B alone, of arrays whose largest weight is 1."""
    layer = br.nn.Linear(8, 5, bias=False, rule="feedback_alignment")
    x, dy = torch.randn(3, 8).requires_grad_(), torch.randn(3, 5)
    for forward, backward in ((COARSE, PERFECT), (PERFECT, COARSE)):
        analog = two_arrays(copy.deepcopy(layer), forward=forward, backward=backward)
        y = analog(x)
        (dx,) = torch.autograd.grad(y, x, dy)
        W, B = layer.weight.detach(), layer.backward_weight.detach()
        expected = W.abs().max() * AnalogMVM.matmul(W / W.abs().max(), x.detach(), forward)
        torch.testing.assert_close(y.detach(), expected)
        torch.testing.assert_close(dx, B.abs().max() * AnalogMVM.matmul(B.t() / B.abs().max(), dy, backward))
        assert bool((y - x @ W.t()).abs().max() > 1e-3) == (forward is COARSE)
        assert bool((dx - dy @ B).abs().max() > 1e-3) == (backward is COARSE)


def test_symmetric_alignment_sees_what_the_array_shows_of_W() -> None:
    """B's gradient is B - V, V the answers of W's array to one input after another, which are coarse."""
    layer = br.nn.Linear(8, 5, bias=False, rule="symmetric_alignment")
    two_arrays(layer, forward=COARSE, backward=PERFECT)
    layer(torch.randn(3, 8)).sum().backward()
    W, B = layer.weight.detach(), layer.backward_weight.detach()
    V = W.abs().max() * AnalogMVM.matmul(W / W.abs().max(), torch.eye(8), COARSE).t()
    torch.testing.assert_close(layer.backward_weight.grad, B - V)
    assert (V - W).abs().max() > 1e-3


def test_the_last_converters_are_those_by_which_W_is_seen() -> None:
    """Also where the rule had a view of W already: that of an earlier call, or one of the user's, whose noise stays."""
    for rule in ("symmetric_alignment", br.Alignment(decay=1.0, self_=1.0, view=br.WeightEstimate(bits=8))):
        layer = br.nn.Linear(8, 5, bias=False, rule=rule)
        gradients = []
        for converters in (PERFECT, COARSE):
            two_arrays(layer, forward=converters, backward=PERFECT)
            layer.zero_grad()
            layer(torch.ones(3, 8)).sum().backward()
            gradients.append(layer.backward_weight.grad.clone())
        assert (gradients[0] - gradients[1]).abs().max() > 1e-3
        W, B = layer.weight.detach(), layer.backward_weight.detach()
        exact = (gradients[0] - (B - W)).abs().max()
        assert (exact > 1e-4) == (rule != "symmetric_alignment")  # of 8 bits
        assert exact < W.abs().max() / 2**7 + 1e-6


@pytest.mark.parametrize("shape", [(64, 10), (10, 40), (64, 64)])
@pytest.mark.parametrize("rule", ["mirrored_kolen_pollack", "weight_mirror", "white_noise_mirror"])
def test_answers_to_noise_come_from_the_array_whatever_the_shape(rule: str, shape: tuple[int, int]) -> None:
    """Products with second moments of the noise would be cheaper for some shapes, and would read W past its array."""
    digital = br.nn.Linear(*shape, rule=rule)
    analog = two_arrays(copy.deepcopy(digital), forward=COARSE, backward=PERFECT)
    found = []
    for layer in (digital, analog):
        torch.manual_seed(1)
        layer(torch.randn(128, shape[0]).requires_grad_()).sum().backward()
        name = "correction" if rule == "mirrored_kolen_pollack" else "backward_weight"
        found.append(layer.state[name].grad)
    assert (found[0] - found[1]).norm() > 1e-3 * found[0].norm()


@pytest.mark.parametrize("layer", [torch.nn.Linear(12, 5), torch.nn.Conv2d(3, 5, (2, 3), stride=2, padding=1)])
def test_a_mirror_phase_reads_the_arrays(layer: torch.nn.Module) -> None:
    torch.manual_seed(0)
    digital = br.convert(torch.nn.Sequential(layer), "feedback_alignment", generator=0)
    found = []
    for converters in (None, PERFECT, COARSE):
        net = copy.deepcopy(digital)
        if converters is not None:
            two_arrays(net, forward=converters, backward=PERFECT)
        br.mirror(net, 20.0, seed=0)
        found.append(net[0].backward_weight.detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert (found[2] - found[0]).norm() > 1e-3 * found[0].norm()


@pytest.mark.parametrize("rule", ["kolen_pollack", "mirrored_kolen_pollack", "symmetric_alignment"])
def test_it_learns_on_noisy_arrays(rule: str) -> None:
    """A linear teacher is found through noise and converters on both arrays, and B comes to W through the noise."""
    torch.manual_seed(0)
    noisy = IOParameters(out_noise=0.02)
    net = two_arrays(
        br.convert(torch.nn.Sequential(torch.nn.Linear(10, 40), torch.nn.ReLU(), torch.nn.Linear(40, 3)), rule),
        forward=noisy,
        backward=noisy,
    )
    opt = torch.optim.SGD(br.param_groups(net, lr=0.1, momentum=0.9, weight_decay=1e-3))
    x = torch.randn(512, 10)
    labels = x[:, :3].argmax(1)
    for step in range(200):
        part = slice(64 * (step % 8), 64 * (step % 8) + 64)
        opt.zero_grad()
        F.cross_entropy(net(x[part]), labels[part]).backward()
        opt.step()
    assert (net(x).argmax(1) == labels).float().mean() > 0.9
    if rule == "mirrored_kolen_pollack":
        assert max(br.metrics.weight_angles(net).values()) < 25


def test_the_same_seed_reads_the_same_noise() -> None:
    net = two_arrays(network("kolen_pollack"))
    x = torch.randn(4, 3, 8, 7)
    first, second = gradients(net, x), gradients(net, x)
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, rtol=0, atol=0)


def test_its_weights_are_those_of_the_digital_model_and_it_reverts() -> None:
    net = network("kolen_pollack")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    two_arrays(net)
    assert before.keys() == net.state_dict().keys()
    x = torch.randn(2, 3, 8, 7)
    br.revert(net)
    assert type(net[0]) is torch.nn.Conv2d
    plain = torch.nn.functional.conv2d(x, before["0.weight"], before["0.bias"], stride=2, padding=1)
    torch.testing.assert_close(net[0](x), plain)


def test_what_has_no_two_arrays_is_refused_and_left_as_it_was() -> None:
    with pytest.raises(ConversionError, match="no converted layers"):
        two_arrays(torch.nn.Linear(3, 2))
    mixed = br.convert(
        torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)), {"0": "kolen_pollack", "1": "sign_symmetry"}
    )
    with pytest.raises(ConversionError, match="have none: 1;"):
        two_arrays(mixed)
    groups = br.convert(
        torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 4, 3, groups=2), torch.nn.Conv1d(4, 4, 3)),
        "kolen_pollack",
    )
    with pytest.raises(ConversionError, match=r"got 1 \(Conv2d\), 2 \(Conv1d\)"):
        two_arrays(groups)
    assert type(groups[0]) is br.nn.Conv2d
    probed = br.convert(torch.nn.Sequential(torch.nn.Linear(3, 2)), "exact_probing")
    with pytest.raises(ConversionError, match="impulses read W entry by entry"):
        two_arrays(probed)
    assert type(probed[0]) is br.nn.Linear
    for rule in (br.rules.activation_alignment(), br.rules.symmetric_alignment(update_forward=True)):
        crossed = br.convert(torch.nn.Sequential(torch.nn.Linear(3, 2)), rule)
        with pytest.raises(ConversionError, match="transposed reads: 0;"):
            two_arrays(crossed)
        assert type(crossed[0]) is br.nn.Linear


def test_arrays_are_written_as_devices_are() -> None:
    """Asymmetric cells in both arrays: steps up are larger than steps down, in W by another part than in B."""
    layer = br.nn.Linear(8, 5, bias=False, rule="kolen_pollack", dtype=torch.float64)
    two_arrays(layer, forward=PERFECT, backward=PERFECT)
    cells = br.device_model(layer, forward=br.Device(asymmetry=0.1), backward=br.Device(asymmetry=0.3))
    before = {"W": layer.weight.detach().clone(), "B": layer.backward_weight.detach().clone()}
    with cells.read(0):
        layer(torch.randn(3, 8, dtype=torch.float64)).square().sum().backward()
    step = -0.1 * layer.weight.grad
    with cells.write(0):
        torch.optim.SGD(br.param_groups(layer, lr=0.1, momentum=0.0)).step()
    for name, part in (("W", 0.1), ("B", 0.3)):
        now = layer.weight if name == "W" else layer.backward_weight
        torch.testing.assert_close(now.detach() - before[name], step + part * step.abs())


def test_what_aihwkit_has_converted_is_refused_in_either_order() -> None:
    config = TorchInferenceRPUConfig()
    plain = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with pytest.raises(ConversionError, match=r"is aihwkit's.*two_arrays"):
        br.convert(convert_to_analog(plain, config), "kolen_pollack")
    converted = convert_to_analog(br.convert(copy.deepcopy(plain), "kolen_pollack"), config)
    for act in (lambda: br.param_groups(converted, lr=0.1), lambda: two_arrays(converted)):
        with pytest.raises(ConversionError, match=r"is aihwkit's.*leaves backroads' layers digital"):
            act()
