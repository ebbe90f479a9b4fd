"""Weights in imperfect devices: grids, moments of noise, fixed points, and trainings that go on bit for bit."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import batch, plain_network, small_network
from torch import Tensor

import backroads as br
from backroads.cli import main
from backroads.errors import ConfigError
from backroads.runs.checkpoint import load_last
from backroads.runs.progress import Progress
from backroads.runs.schema import TrainingResults
from backroads.train.settings import resolve
from backroads.train.trainer import train


def layer(W: Tensor) -> torch.nn.Linear:
    made = torch.nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
    with torch.no_grad():
        made.weight.copy_(W)
    return made


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seen(W: Tensor, step: int = 0, seed: int = 0, **errors: Any) -> Tensor:
    net = layer(W)
    with br.device_model(net, forward=br.Device(**errors), seed=seed).read(step):
        return net.weight.detach().clone()


def held(W: Tensor, change: Tensor, steps: int = 1, seed: int = 0, **errors: Any) -> Tensor:
    """W after steps that each ask for a change."""
    net = layer(W)
    cells = br.device_model(net, forward=br.Device(**errors), seed=seed)
    for step in range(steps):
        with cells.write(step), torch.no_grad():
            net.weight.add_(change)
    return net.weight.detach().clone()


# --- what is read ---


@pytest.mark.parametrize("bits", [2, 3, 6])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_what_is_read_lies_on_the_grid_of_its_bits(bits: int, noise: float) -> None:
    W = drawn(40, 50)
    step = float(W.abs().max()) / (2 ** (bits - 1) - 1)
    levels = seen(W, bits=bits, read_noise=noise) / step
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)
    assert levels.abs().max() <= 2 ** (bits - 1) - 1 + 1e-9
    if not noise:
        assert (levels * step - W).abs().max() <= step / 2 + 1e-12


def test_read_noise_has_mean_zero_and_its_deviation_and_is_fresh_in_each_step() -> None:
    W = 3 * drawn(300, 400)
    first, second = (seen(W, step, read_noise=0.2) - W for step in (0, 1))
    sigma = 0.2 * float(W.square().mean().sqrt())
    n = W.numel()
    for noise in (first, second):
        assert abs(float(noise.mean())) < 4 * sigma / math.sqrt(n)
        assert float(noise.square().mean()) == pytest.approx(sigma**2, rel=4 * math.sqrt(2 / n))
    assert abs(float((first * second).mean())) < 4 * sigma**2 / math.sqrt(n)
    torch.testing.assert_close(seen(W, 1, read_noise=0.2), W + second, rtol=0, atol=0)
    assert not torch.equal(seen(W, 1, seed=1, read_noise=0.2), W + second)


def test_after_a_read_the_stored_weights_are_there_bit_for_bit_also_when_a_pass_fails() -> None:
    net = layer(drawn(4, 5))
    before = net.weight.detach().clone()
    cells = br.device_model(net, forward=br.Device(bits=2))

    def failing() -> None:
        with cells.read(0):
            assert not torch.equal(net.weight, before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert torch.equal(net.weight, before)


def test_weights_of_zeros_are_read_as_zeros() -> None:
    assert not seen(torch.zeros(3, 4, dtype=torch.float64), bits=4, read_noise=0.5).any()


# --- what is written ---


def test_steps_up_and_down_are_of_the_sizes_that_asymmetry_says() -> None:
    W, change = drawn(20, 30), drawn(20, 30, seed=1)
    expected = torch.where(change > 0, 1.2 * change, 0.8 * change)
    torch.testing.assert_close(held(W, change, asymmetry=0.2) - W, expected, rtol=1e-9, atol=1e-12)


def test_asymmetry_moves_the_fixed_point_of_gradient_descent_by_asymmetry_times_noise_over_curvature() -> None:
    """Gradients k w + or - sigma in turns: two steps move w by -2 lr (k w - a sigma), to first order in lr."""
    k, sigma, a, lr = 2.0, 3.0, 0.1, 1e-3
    net = layer(torch.ones(1, 1, dtype=torch.float64))
    cells = br.device_model(net, forward=br.Device(asymmetry=a))
    for step in range(6000):
        with cells.write(step), torch.no_grad():
            net.weight.sub_(lr * (k * net.weight + sigma * (-1) ** step))
    assert net.weight.item() == pytest.approx(a * sigma / k, abs=2 * lr * sigma)


def test_drift_decays_geometrically_to_its_point() -> None:
    W = drawn(3, 4)
    found = held(W, torch.zeros_like(W), steps=20, drift=0.1, drift_to=0.7)
    torch.testing.assert_close(found, 0.7 + 0.9**20 * (W - 0.7), rtol=1e-9, atol=1e-12)


def test_drift_and_a_constant_change_meet_where_they_are_equal() -> None:
    """w = (1 - d) (w + c) at w = c (1 - d) / d."""
    W = drawn(3, 4)
    found = held(W, torch.full_like(W, 0.02), steps=400, drift=0.1)
    torch.testing.assert_close(found, torch.full_like(W, 0.02 * 0.9 / 0.1), rtol=1e-9, atol=1e-12)


def test_stuck_cells_never_move_and_are_as_many_as_was_said() -> None:
    W = drawn(200, 300)
    found = held(W, torch.ones_like(W), steps=3, stuck=0.3, drift=0.01)
    still = found == W
    assert float(still.double().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / W.numel()))
    assert torch.equal(held(W, -torch.ones_like(W), stuck=0.3) == W, still)
    assert not torch.equal(held(W, -torch.ones_like(W), stuck=0.3, seed=1) == W, still)
    assert torch.equal(held(W, torch.ones_like(W), stuck=1.0), W)


def test_a_change_is_a_whole_number_of_steps_and_right_on_average() -> None:
    W = torch.full((200, 300), 0.5, dtype=torch.float64)
    step = 0.5 / 7
    moved = (held(W, torch.full_like(W, 0.3 * step), update_bits=4) - W) / step
    torch.testing.assert_close(moved, moved.round(), rtol=0, atol=1e-9)
    assert float(moved.mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / W.numel()))


# --- on the weights that are meant ---


def gradients_and_weights(net: torch.nn.Module, cells: Any, steps: int = 3) -> dict[str, Tensor]:
    opt = torch.optim.SGD(br.param_groups(net, lr=0.1, weight_decay=1e-3))
    x, y = batch()
    torch.manual_seed(0)
    for step in range(steps):
        opt.zero_grad()
        with cells.read(step):
            F.cross_entropy(net(x), y).backward()
        with cells.write(step):
            opt.step()
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("rule", ["backprop", "symmetric_alignment", "mirrored_kolen_pollack", "kolen_pollack"])
def test_perfect_devices_change_no_bit(rule: str) -> None:
    net = small_network(rule)
    twin = copy.deepcopy(net)
    found = gradients_and_weights(net, br.device_model(net, forward=br.Device(), backward=br.Device()))
    opt = torch.optim.SGD(br.param_groups(twin, lr=0.1, weight_decay=1e-3))
    x, y = batch()
    torch.manual_seed(0)
    for _ in range(3):
        opt.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        opt.step()
    for name, p in twin.named_parameters():
        assert torch.equal(found[name], p), name


@pytest.mark.parametrize("fused", [False, True])
def test_the_devices_store_what_their_errors_make_of_an_optimiser_s_step(fused: bool) -> None:
    """Also where one kernel updates the weight in place; momentum sees gradients alone, as that of a twin does."""
    net = plain_network()
    cells = br.device_model(net, forward=br.Device(asymmetry=0.5))
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=fused)
    x, y = batch()
    for step in range(3):
        twin = copy.deepcopy(net)
        ideal = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, fused=fused)
        ideal.load_state_dict(copy.deepcopy(opt.state_dict()))
        before = [p.detach().clone() for p in net.parameters()]
        for model, optimizer, writing in ((net, opt, cells.write(step)), (twin, ideal, contextlib.nullcontext())):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with writing:
                optimizer.step()
        for p, q, s in zip(net.parameters(), twin.parameters(), before, strict=True):
            change = q - s
            expected = s + change + 0.5 * change.abs() if p.dim() > 1 else q
            torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from inside its compiler
@pytest.mark.slow
def test_compiled_layers_read_their_devices() -> None:
    net = small_network("symmetric_alignment")
    cells = br.device_model(net, forward=br.Device(bits=3), backward=br.Device(bits=3))
    compiled = torch.compile(net, backend="aot_eager")
    x, _ = batch()
    with cells.read(0):
        expected = net(x)
        torch.testing.assert_close(compiled(x), expected)
    assert not torch.allclose(net(x), expected)
    torch.testing.assert_close(compiled(x), net(x))


def test_shards_of_weights_are_refused() -> None:
    """As FullyShardedDataParallel leaves them: a part of the flattened matrix."""
    net = small_network("symmetric_alignment")
    net[6].weight.data = net[6].weight.data.flatten()[:7]
    with pytest.raises(ConfigError, match=r"expected weights that are whole.*DistributedDataParallel"):
        br.device_model(net, forward=br.Device(bits=6))


@pytest.mark.parametrize("side", ["forward", "backward"])
def test_a_device_holds_the_weights_of_its_side_alone(side: str) -> None:
    net = small_network("symmetric_alignment")
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with br.device_model(net, **{side: br.Device(read_noise=1.0)}).read(0):
        changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    backward = {name for name in before if name.endswith("backward_weight")}
    matrices = {name for name, p in net.named_parameters() if p.dim() > 1}  # biases and gains are kept in no array
    expected = backward if side == "backward" else matrices - backward
    assert changed == expected


def test_a_gradient_is_that_at_the_values_that_were_read() -> None:
    net = plain_network()
    cells = br.device_model(net, forward=br.Device(bits=3, read_noise=0.1), seed=4)
    x, y = batch()
    with cells.read(7):
        twin = copy.deepcopy(net)
        F.cross_entropy(net(x), y).backward()
    F.cross_entropy(twin(x), y).backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0)


def test_the_correction_of_mirrored_kolen_pollack_is_not_lost_under_read_noise() -> None:
    """It moves into B with the step, so that B comes to W: what noise shows of W reaches the stored weights."""
    net = br.convert(torch.nn.Linear(8, 6, bias=False, dtype=torch.float64), "mirrored_kolen_pollack", generator=0)
    cells = br.device_model(net, backward=br.Device(read_noise=0.01))
    opt = torch.optim.SGD(br.param_groups(net, lr=1e-4, momentum=0.0))
    torch.manual_seed(0)
    for step in range(25):
        opt.zero_grad()
        with cells.read(step):
            net(drawn(64, 8, seed=step)).square().mean().backward()
        with cells.write(step):
            opt.step()
        assert not net.correction.any()
    (angle,) = br.metrics.weight_angles(net).values()
    assert angle < 15


# --- refusals ---


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        ({"bits": 1}, "bits: expected a whole number from 2 to 16"),
        ({"bits": 4.0}, "bits: expected a whole number"),
        ({"update_bits": 17}, "update_bits: expected a whole number"),
        ({"read_noise": -0.1}, "read_noise: expected a finite number from 0"),
        ({"read_noise": math.nan}, "read_noise: expected"),
        ({"read_noise": "much"}, "read_noise: expected"),
        ({"asymmetry": 1.5}, "asymmetry: expected a finite number from -1 to 1"),
        ({"drift": 2}, "drift: expected a finite number from 0 to 1"),
        ({"drift_to": math.inf}, "drift_to: expected"),
        ({"stuck": True}, "stuck: expected"),
    ],
)
def test_bad_numbers_are_refused(errors: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        br.Device(**errors)


def test_what_is_no_device_and_backward_weights_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"forward: expected a br\.Device"):
        br.device_model(plain_network(), forward=6)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="backward: expected a model with backward weights"):
        br.device_model(plain_network(), backward=br.Device(bits=6))


# --- in the trainer ---

QUICK = {"data": "digits", "model": "mlp", "limit": 256, "batch_size": 32, "epochs": 2, "device": "cpu", "threads": 1}


def quiet(progress: Progress) -> None:
    """Says nothing."""


WORN = {
    "hardware_forward": {"bits": 6, "update_bits": 8, "read_noise": 0.02, "asymmetry": 0.05, "stuck": 0.1},
    "hardware_backward": {"bits": 6, "read_noise": 0.05, "drift": 0.01},
}


@pytest.mark.parametrize(
    "rule", [pytest.param("symmetric_alignment", marks=pytest.mark.slow), "mirrored_kolen_pollack"]
)
def test_a_run_that_goes_on_is_equal_bit_for_bit(rule: str, tmp_path: Path) -> None:
    settings = {**QUICK, **WORN, "rule": rule}
    train(resolve(settings), tmp_path / "whole", quiet)
    train(resolve({**settings, "max_steps": 5, "checkpoint_every": 5}), tmp_path / "parts", quiet)
    train(resolve({**settings, "checkpoint_every": 5}), tmp_path / "parts", quiet, resume=True)
    whole, parts = (load_last(tmp_path / name / "checkpoints").model for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_an_evaluation_afterwards_reads_the_same_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its noise follows from the seed and the step: the accuracy is that at the end of the training."""
    found = train(resolve({**QUICK, "hardware_forward": {"bits": 3, "read_noise": 0.1}}), tmp_path / "run", quiet)
    assert isinstance(found, TrainingResults)
    with pytest.raises(SystemExit) as left:
        main(["eval", str(tmp_path / "run")])
    assert not left.value.code
    assert f"top-1 {100 * (found.arms[0].accuracy or 0.0):.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"hardware_forward": {"bit": 6}}, "hardware_forward: unknown 'bit'. Did you mean 'bits'"),
        ({"hardware_backward": {"bits": 1}}, "hardware_backward.bits: expected a whole number"),
        (
            {"rule": "kolen_pollack", "mirror_rows": 131.0, "hardware_backward": {"bits": 6}},
            "hardware_backward: expected a training without mirror phase",
        ),
        ({"rule": "backprop", "hardware_backward": {"bits": 6}}, "backward: expected a model with backward weights"),
    ],
)
def test_the_trainer_refuses_devices_that_make_no_sense(settings: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        train(resolve({**QUICK, **settings}), tmp_path / "run", quiet)


# --- norms that part ---


def test_layers_whose_norms_have_parted_are_found_by_name() -> None:
    net = small_network("symmetric_alignment")
    assert br.metrics.check_norms(net) == {}
    with torch.no_grad():
        net[0].backward_weight.mul_(11 * net[0].weight.norm() / net[0].backward_weight.norm())
        net[6].backward_weight.mul_(0.09 * net[6].weight.norm() / net[6].backward_weight.norm())
        net[8].backward_weight.mul_(9.9 * net[8].weight.norm() / net[8].backward_weight.norm())
    assert br.metrics.check_norms(net) == pytest.approx({"0": 11.0, "6": 0.09})


def test_a_training_warns_once_of_a_layer_whose_norms_have_parted(tmp_path: Path) -> None:
    """B drifts to 5 in all its cells, far above W's size, within the first epoch."""
    lines: list[str] = []

    def listen(progress: Progress) -> None:
        lines.extend((progress.line or "").splitlines())

    settings = {**QUICK, "epochs": 3, "rule": "feedback_alignment", "learning_rate": 1e-4}
    drifting = resolve({**settings, "hardware_backward": {"drift": 0.5, "drift_to": 5.0}})
    results = train(drifting, tmp_path / "run", listen)
    assert isinstance(results, TrainingResults)
    warned = [line for line in lines if line.startswith("warning: |B| / |W|")]
    assert len(warned) == 1
    (arm,) = results.arms
    named = set(re.findall(r"([\w.]+) \([0-9.]+\)", warned[0]))
    assert named == {name for name, ratio in arm.readings["norm_ratio"].items() if ratio > 10}
    assert named
    lines.clear()
    train(resolve(settings), tmp_path / "well", listen)
    assert lines
    assert not any("warning" in line for line in lines)
