"""What a training does, step by step and at its ends."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from problems import NOISY, RULES
from train.processes import finish

import backroads as br
from backroads.data.source import limited
from backroads.errors import ConfigError, RunError, StateError
from backroads.feedback.conversion.groups import clip_gradients, local_gradients
from backroads.feedback.rules.alignment import MOMENTUM
from backroads.methods.feedback import Feedback
from backroads.phases import NoisePhase
from backroads.runs import checkpoint
from backroads.runs.runtime import Runtime
from backroads.runs.schema import ArmResult, TrainingResults
from backroads.runs.signals import Stopper
from backroads.train import arm
from backroads.train.arm import collapsed, dead
from backroads.train.build import Batches, dataset_of, make_model, method_of, rules_of
from backroads.train.load import load_model
from backroads.train.optimizers import Optimizers, factor
from backroads.train.settings import OptimizerName, TrainSettings, resolve
from backroads.train.step import Stepper, evaluate, first_bad, of_six_views
from backroads.train.trainer import train

HERE = Runtime(torch.device("cpu"))
QUICK: dict[str, Any] = {
    "data": "digits",
    "model": "digits_conv",
    "model_options": {"width": 4},
    "epochs": 2,
    "batch_size": 64,
    "threads": 1,
    "log_every": 5,
}


def run(path: Path, **changes: Any) -> ArmResult:
    results = train(resolve({**QUICK, **changes}), path, lambda _: None)
    assert isinstance(results, TrainingResults)
    return results.arms[0]


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def mlp(rule: Any = None, *, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).to(dtype)
    return net if rule is None else br.convert(net, rule, generator=1)


def stepper(model: torch.nn.Module, steps_per_epoch: int = 10, **changes: Any) -> Stepper:
    return Stepper(model, resolve({**QUICK, **changes}), HERE, steps_per_epoch, Feedback(), br.device_model(model))


def optimizers(model: torch.nn.Module, config: TrainSettings, steps_per_epoch: int = 1) -> Optimizers:
    return Optimizers(model, config, steps_per_epoch, Feedback().parameter_groups(model))


def batch(n: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(n, 6, generator=g, dtype=torch.float64), torch.randint(3, (n,), generator=g)


# -- the step ---------------------------------------------------------------------------------------------------------


def test_backprop_is_plain_torch(tmp_path: Path) -> None:
    ours, plain = mlp("backprop"), mlp()
    taker = stepper(ours, momentum=0.9, weight_decay=0.01, learning_rate=0.2, schedule="constant", decay_vectors=True)
    opt = torch.optim.SGD(plain.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.01)
    x, y = batch()
    for step in range(5):
        done = taker.forward_backward(step, x, y)
        taker.update(step, done)
        opt.zero_grad()
        loss = F.cross_entropy(plain(x), y)
        loss.backward()
        opt.step()
        assert float(done.loss) == pytest.approx(float(loss.detach()), rel=1e-6)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["symmetric_alignment", "kolen_pollack", "feedback_alignment"])
def test_accumulation_gives_the_gradients_of_the_whole_batch(name: str) -> None:
    x, y = batch()
    whole, parts = mlp(name), mlp(name)
    stepper(whole).forward_backward(0, x, y)
    done = stepper(parts, accumulate=4).forward_backward(0, x, y)
    assert done.n == 16
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None
        else:
            # The loss is taken in float32.
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


def test_data_dependent_alignment_is_averaged_over_the_parts() -> None:
    """A mean over the batch is the mean of the means of equal parts."""
    rule = br.Alignment(amp=0.1, sparse=0.2, null=0.05, decay=0.3)
    x, y = batch()
    whole, parts = mlp(rule), mlp(rule)
    stepper(whole).forward_backward(0, x, y)
    stepper(parts, accumulate=4).forward_backward(0, x, y)
    for a, b in zip(br.backward_parameters(whole), br.backward_parameters(parts), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [5, 14])  # in 2, 2, 1 and in 4, 4, 4, 2
def test_parts_of_different_sizes_count_by_their_examples(n: int) -> None:
    """The last batch of an epoch may not divide: a mean over it is that of the parts weighted by their sizes."""
    rule = br.Alignment(amp=0.1, sparse=0.2, null=0.05, decay=0.3, self_=0.4)
    x, y = batch(n)
    whole, parts = mlp(rule), mlp(rule)
    of_whole, of_parts = (stepper(m, accumulate=k).forward_backward(0, x, y) for m, k in ((whole, 1), (parts, 4)))
    assert float(of_parts.loss) == pytest.approx(float(of_whole.loss), rel=1e-6)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)  # the loss is taken in float32


def test_every_step_draws_by_its_seed_number_and_process_and_by_nothing_else() -> None:
    """A dropout behind a constant input shows the draws."""
    x, y = torch.ones(20, 3, dtype=torch.float64), torch.zeros(20, dtype=torch.long)

    def drawn(seed: int, step: int, rank: int, before: int = 0) -> str:
        model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 3, dtype=torch.float64))
        masks: list[torch.Tensor] = []
        model[0].register_forward_hook(lambda module, args, output: masks.append(output))
        taker = stepper(model, seed=seed)
        taker.runtime = Runtime(torch.device("cpu"), rank=rank)
        torch.manual_seed(before)
        for _ in range(2):  # a repeated step draws the same
            taker.forward_backward(step, x, y)
        assert torch.equal(*masks)
        return str(masks[0].flatten().tolist())

    which = [(seed, step, rank) for seed in (0, 1) for step in (0, 1, 2) for rank in (0, 1)]
    assert len({drawn(*numbers) for numbers in which}) == len(which)
    assert drawn(1, 2, 0, before=5) == drawn(1, 2, 0, before=6)


def test_clipping_leaves_alignment_right() -> None:
    x, y = batch()
    free, clipped = mlp("symmetric_alignment"), mlp("symmetric_alignment")
    for model in (free, clipped):
        stepper(model).forward_backward(0, x, y)
    norm = torch.linalg.vector_norm(
        torch.cat([p.grad.flatten() for p in br.forward_parameters(free) if p.grad is not None])
    )
    assert clip_gradients(clipped, float(norm) / 10) == pytest.approx(float(norm))
    for a, b in zip(br.backward_parameters(free), br.backward_parameters(clipped), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    for a, b in zip(br.forward_parameters(free), br.forward_parameters(clipped), strict=True):
        torch.testing.assert_close(b.grad, a.grad / 10, rtol=1e-4, atol=0)  # type: ignore[operator]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_clipping_scales_what_kolen_pollack_shares_and_not_its_decay(decay: float) -> None:
    x, y = batch()
    model = mlp(br.rules.kolen_pollack(decay=decay))
    stepper(model, backward_optimizer="sgd").forward_backward(0, x, y)
    clip_gradients(model, 1e-3)
    for layer in (model[0], model[2]):
        expected = layer.weight.grad + decay * layer.backward_weight.detach()
        torch.testing.assert_close(layer.backward_weight.grad, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_clipping_counts_the_decay_of_all_parts_of_a_batch(accumulate: int) -> None:
    """B follows W's clipped gradient plus its own whole decay, in however many parts the batch was computed."""
    model = mlp(br.rules.kolen_pollack(decay=0.3))
    taker = stepper(model, accumulate=accumulate, clip_norm=1e-3)
    x, y = batch()
    before = [layer.backward_weight.detach().clone() for layer in (model[0], model[2])]
    taker.update(0, taker.forward_backward(0, x, y))
    for layer, B in zip((model[0], model[2]), before, strict=True):
        torch.testing.assert_close(layer.backward_weight.grad, layer.weight.grad + 0.3 * B, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_an_optimiser_that_is_asked_for_takes_its_own_steps_of_b(name: str) -> None:
    """Those of the class of torch; but for the first of SGD, which has no momentum."""
    model = mlp("symmetric_alignment")
    taker, (x, y) = stepper(model, backward_optimizer=name, backward_rate=0.01), batch()
    backward, B = taker.optimizers.backward, model[0].backward_weight
    assert backward is not None
    alone = B.detach().clone().requires_grad_()
    other = type(backward)([alone])
    for step in range(3):
        done = taker.forward_backward(step, x, y)
        (group,) = backward.param_groups
        other.param_groups[0].update(
            {key: value for key, value in group.items() if key not in ("params", "name", "begun")}
        )
        if name == "sgd" and step == 0:
            other.param_groups[0].update(momentum=0.0, nesterov=False)
        alone.grad = B.grad.clone()
        taker.update(step, done)
        other.step()
        torch.testing.assert_close(B, alone)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_kolen_pollack_brings_b_to_w_by_the_decay_alone(optimizer: str, clip_norm: float | None) -> None:
    """B has W's updates and W's decay, so W - B follows the optimiser's own decay from any start."""
    x, y = batch()
    model = mlp(br.rules.kolen_pollack(decay=0))
    taker = stepper(
        model,
        optimizer=optimizer,
        learning_rate=0.1,
        momentum=0.0 if optimizer == "sgd" else 0.9,
        weight_decay=0.2,
        schedule="constant",
        clip_norm=clip_norm,
    )
    before = [layer.weight.detach() - layer.backward_weight.detach() for layer in (model[0], model[2])]
    for step in range(20):
        taker.update(step, taker.forward_backward(step, x, y))
    for layer, old in zip((model[0], model[2]), before, strict=True):
        now = layer.weight.detach() - layer.backward_weight.detach()
        torch.testing.assert_close(now, old * (1 - 0.1 * 0.2) ** 20, rtol=1e-6, atol=1e-9)


def test_delay_trains_b_alone_and_alternation_takes_turns() -> None:
    x, y = batch()
    model = mlp(br.rules.symmetric_alignment(0.3, 0.3))  # not all the way at once
    taker = stepper(model, steps_per_epoch=2, delay_epochs=1.0, alternate_step_freq=2, weight_decay=0.0, epochs=9)
    moved = []
    for step in range(8):
        W, B = model[0].weight.detach().clone(), model[0].backward_weight.detach().clone()
        taker.update(step, taker.forward_backward(step, x, y))
        moved.append((not torch.equal(W, model[0].weight), not torch.equal(B, model[0].backward_weight)))
    task, align, both = (True, False), (False, True), [(False, True)] * 2
    assert moved == [*both, task, align, task, task, align, task]  # steps 0, 1 are the delay; 0, 3, 6 align


def test_scheduled_coefficients_reach_the_layers() -> None:
    x, y = batch()
    model = mlp("symmetric_alignment")
    taker = stepper(model, steps_per_epoch=2, epochs=2, coefficients={"self": {"start": 0.5}})
    seen = [taker.forward_backward(step, x, y).coefficients["self"] for step in range(4)]
    value = br.rules.symmetric_alignment().self_
    assert seen == [0.0, 0.0, value, value]
    with pytest.raises(ConfigError, match="Did you mean 'self'"):
        stepper(mlp("symmetric_alignment"), coefficients={"slef": {}})
    with pytest.raises(ConfigError, match="expected a rule with coefficients"):
        stepper(mlp("backprop"), coefficients={"amp": {}})


def test_rates_follow_their_schedules() -> None:
    config = resolve({"epochs": 4, "learning_rate": 2.0, "warmup_epochs": 1.0, "schedule": "linear"})
    rates = [optimizers(mlp("symmetric_alignment"), config, 2).rates(step) for step in range(8)]
    fall = [1 - step / 8 for step in range(8)]
    assert [b for _, b in rates] == fall  # B does not warm up
    assert [w for w, _ in rates] == [2 * f * min(1, (step + 1) / 2) for step, f in enumerate(fall)]
    steps = resolve({"epochs": 9, "schedule": "steps", "drop_epochs": [3.0, 6.0], "drop_factor": 0.1})
    assert [factor("steps", e, steps) for e in (0, 2.99, 3, 6, 8)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    assert [factor("cosine", e, steps) for e in (0, 4.5, 9)] == pytest.approx([1, 0.5, 0])
    assert factor("constant", 5, steps) == 1


@pytest.mark.parametrize(
    ("rule", "given", "expected"),
    [
        ("activation_alignment", None, MOMENTUM),
        ("activation_alignment", 0.0, 0.0),
        ("weight_mirror", None, 0.0),
        ("symmetric_alignment", None, 0.8),  # W's own
        ("symmetric_alignment", 0.5, 0.5),
        ("kolen_pollack", 0.5, 0.8),  # W's own
    ],
)
def test_the_momentum_of_b_fits_the_rule(rule: str, given: float | None, expected: float) -> None:
    made = optimizers(mlp(rule), resolve({"momentum": 0.8, "backward_momentum": given}))
    groups = [g for o in (made.forward, made.backward) if o is not None for g in o.param_groups]
    (of_b,) = (group for group in groups if group["name"] in ("tied", "taught"))
    assert of_b["momentum"] == expected


def test_momentum_is_not_for_pulls_to_w_beside_data_or_beyond_w() -> None:
    """Nesterov's method at rate 1 asks for a decay below (2 + 2 m) / (1 + 2 m), plain descent for one below 2."""
    assert br.rules.symmetric_alignment(1.0, 1.0).optimiser("backward_weight", 0.9).momentum == 0.9
    assert br.rules.symmetric_alignment(1.9, 1.9).optimiser("backward_weight", 0.9).momentum == 0
    assert br.Alignment(decay=0.5, self_=0.3, amp=0.2).optimiser("backward_weight", 0.9).momentum == 0


@pytest.mark.parametrize(("m", "behind"), [(0.0, 1.0), (0.9, 0.1)])
def test_momentum_takes_b_where_w_is_going(m: float, behind: float) -> None:
    """While W moves by u in every step, B under symmetric alignment stays (1 - m) u behind it."""
    layer = br.nn.Linear(3, 2, rule=br.rules.symmetric_alignment(1.0, 1.0), dtype=torch.float64)
    backward = optimizers(layer, resolve({"momentum": 0.9, "backward_momentum": m})).backward
    u = torch.arange(6.0, dtype=torch.float64).view(2, 3)
    assert backward is not None
    for step in range(6):
        backward.zero_grad()
        layer(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
        with torch.no_grad():
            layer.weight += u
        backward.param_groups[0]["lr"] = 1.0
        backward.step()
        if step > 1:
            torch.testing.assert_close(layer.weight - layer.backward_weight, behind * u)


@pytest.mark.parametrize("kind", ["noise", "one pixel", "rarely", "one example", "steep", "shifted"])
@pytest.mark.parametrize("m", [0.0, MOMENTUM])
def test_the_default_of_activation_alignment_is_stable_under_momentum(m: float, kind: str) -> None:
    """On hard inputs, fresh in every step or always the same, B ends nearer to W, and never goes far away."""
    torch.manual_seed(0)
    layer = br.nn.Conv2d(4, 6, 3, padding=1, rule="activation_alignment", dtype=torch.float64)
    optimizer = torch.optim.SGD([layer.backward_weight], lr=1.0, momentum=m, nesterov=m > 0)
    always = torch.randn(1, 4, 6, 6, dtype=torch.float64)

    def distance() -> float:
        return float((layer.backward_weight - layer.weight).detach().norm())

    first, most = distance(), 0.0
    for _ in range(300):
        x = torch.randn(8, 4, 6, 6, dtype=torch.float64)
        if kind in ("one pixel", "rarely"):
            x = x * (torch.arange(36).view(6, 6) == 14)
        if kind == "rarely":  # momentum goes on while nothing is seen
            x = x * (torch.rand(8, 1, 1, 1, dtype=torch.float64) < 0.1)
        if kind == "one example":
            x = always.expand(8, -1, -1, -1)
        elif kind == "steep":
            x = x * 10.0 ** -torch.arange(4.0).view(4, 1, 1)
        elif kind == "shifted":
            x = x + 20 * torch.arange(4.0).view(4, 1, 1)
        optimizer.zero_grad()
        layer(x).sum().backward()
        optimizer.step()
        most = max(most, distance())
    assert most < 2 * first
    assert distance() < first


def test_the_triangle_rises_from_a_fifth_to_the_peak_and_falls_and_B_does_not_rise() -> None:
    config = resolve({"schedule": "triangle", "epochs": 10, "peak": 0.2, "last_factor": 0.1, "learning_rate": 2.0})
    rates = [optimizers(mlp("symmetric_alignment"), config).rates(step) for step in (0, 1, 2, 6, 10)]
    assert [rate for rate, _ in rates] == pytest.approx([0.4, 1.2, 2.0, 1.1, 0.2])
    assert [rate for _, rate in rates] == pytest.approx([1, 1, 1, 0.55, 0.1])


def test_norms_have_their_own_rate_and_no_more_decay() -> None:
    """rate times decay, what a step takes off a weight, is the same in all groups."""
    model = br.convert(torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LayerNorm(8)), "kolen_pollack")
    config = resolve({"weight_decay": 0.01, "learning_rate": 0.5, "norm_rate": 64, "decay_vectors": True})
    made = optimizers(model, config)
    made.set_rates(0)
    groups = {g["name"]: g for g in made.forward.param_groups}
    assert set(groups) == {"weights", "norms", "tied"}
    assert {id(p) for p in groups["norms"]["params"]} == {id(p) for p in model[1].parameters()}
    assert groups["norms"]["lr"] == 64 * groups["weights"]["lr"]
    shrinks = {name: g["lr"] * g["weight_decay"] for name, g in groups.items()}
    assert shrinks["norms"] == pytest.approx(shrinks["weights"])


@pytest.mark.parametrize("pattern", ["0.*", "0.weight"])  # B, which gets W's increments, stops with W
def test_frozen_parameters_stand_still_from_their_epoch_on(pattern: str) -> None:
    x, y = batch()
    model = mlp("kolen_pollack")
    taker = stepper(model, steps_per_epoch=2, freeze_after={pattern: 1.5}, weight_decay=0.1, schedule="constant")
    still = []
    for step in range(6):
        before = [p.detach().clone() for p in model.parameters()]
        taker.update(step, taker.forward_backward(step, x, y))
        moved = {
            name for (name, p), old in zip(model.named_parameters(), before, strict=True) if not torch.equal(p, old)
        }
        still.append("0.weight" not in moved and "0.backward_weight" not in moved and "2.weight" in moved)
    assert still == [False] * 3 + [True] * 3
    with pytest.raises(ConfigError, match="freeze_after: no parameter is called 'fc'"):
        stepper(mlp(), freeze_after={"fc": 1})


def test_six_views_are_the_weighted_mean_of_moved_and_mirrored_images() -> None:
    x = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(30, generator=torch.Generator().manual_seed(1))

    def predict(x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ weight).tanh()[:, None]

    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    views = {x: 0.5, padded[:, :, :5, :6]: 0.25, padded[:, :, 2:, 2:]: 0.25}
    expected = sum(share * (predict(v) + predict(v.flip(-1))) / 2 for v, share in views.items())
    torch.testing.assert_close(of_six_views(predict, x), expected)


def test_decay_spares_vectors_unless_asked() -> None:
    model = mlp("backprop")
    for flag, decays in ((False, [0.01, 0.0]), (True, [0.01])):
        config = resolve({"weight_decay": 0.01, "decay_vectors": flag})
        assert [g["weight_decay"] for g in optimizers(model, config).forward.param_groups] == decays


def test_the_running_mean_is_what_is_evaluated() -> None:
    x, y = batch()
    model = mlp("symmetric_alignment")
    taker = stepper(model, ema=0.9)
    means = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(3):
        taker.update(step, taker.forward_backward(step, x, y))
        decay = min(0.9, (1 + step) / (10 + step))
        means = {name: decay * means[name] + (1 - decay) * value for name, value in model.state_dict().items()}
    own = model[0].weight.detach().clone()
    with taker.evaluated(4) as evaluated:
        torch.testing.assert_close(evaluated.state_dict(), means)
        assert not evaluated.training
    assert torch.equal(model[0].weight, own)
    assert model.training


@pytest.mark.parametrize("name", {**RULES, **NOISY})
def test_what_stays_out_of_the_all_reduce_does_not_depend_on_data_or_draws(name: str) -> None:
    """Gradients of what a rule teaches are the same on other data and other noise, exactly for what is named."""
    rule = {**RULES, **NOISY}[name]
    torch.manual_seed(0)
    model = mlp(rule)
    named = local_gradients(model)
    taught = {
        f"{place}.{key}"
        for place, layer in br.aligned_layers(model)
        for key, value in layer.state.items()
        if isinstance(value, torch.nn.Parameter)
    }
    assert taught or not rule.learns
    gradients = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        g = torch.Generator().manual_seed(seed)
        x, y = torch.randn(9, 6, generator=g, dtype=torch.float64), torch.randint(3, (9,), generator=g)
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        gradients.append({key: model.get_parameter(key).grad for key in taught})
    for key, first in gradients[0].items():
        second = gradients[1][key]
        same = first is None or torch.equal(first, second)  # type: ignore[arg-type]
        # Impulses at all inputs of a small layer read the same W in each pass, which none would in a larger one.
        assert same == (key in named) or (name == "exact probing" and key not in named), key


# -- whole runs -------------------------------------------------------------------------------------------------------


def test_symmetric_alignment_goes_all_the_way_unless_told_otherwise() -> None:
    rule = rules_of(resolve({"rule": "symmetric_alignment"}))
    assert rule == br.rules.symmetric_alignment(1.0, 1.0)
    given = rules_of(resolve({"rule_options": {"decay": 0.2, "self": 0.2}}))
    assert given == br.rules.symmetric_alignment(0.2, 0.2)


def test_a_run_learns_and_writes_what_it_promises(tmp_path: Path) -> None:
    results = run(tmp_path / "r", epochs=4)
    assert results.status == "finished"
    assert results.accuracy > 0.9
    assert max(results.readings["weight_angle"].values()) < 10
    assert results.collapsed == results.dead == ()
    path = tmp_path / "r"
    assert {"config.toml", "environment.json", "events.jsonl", "system.jsonl", "results.json", "checkpoints"} == {
        p.name for p in path.iterdir()
    }
    epochs = events(path, "evaluation")
    assert [e["epoch"] for e in epochs] == [0, 1, 2, 3, 4]
    assert epochs[0]["train_loss"] is None
    # On the validation part after every epoch; on the test split once.
    assert all(e["eval_accuracy"] is not None for e in epochs)
    assert [e["test_accuracy"] for e in epochs] == [None] * 4 + [results.accuracy]
    assert results.best_accuracy == max(e["eval_accuracy"] for e in epochs[1:])
    (start,) = events(path, "start")
    assert [start[f"{part}_examples"] for part in ("train", "eval", "test")] == [1149, 288, 360]
    assert [e["step"] for e in events(path, "step")][:5] == [5, 10, 15, 17, 20]
    assert len(events(path, "readings")) == 5
    speeds = [json.loads(line) for line in (path / "system.jsonl").read_text().splitlines()]
    assert all(s["examples_per_second"] > 0 for s in speeds if s["event"] == "speed")


@pytest.mark.parametrize("rule", ["symmetric_alignment", "activation_alignment", "kolen_pollack"])
def test_bf16_and_channels_last_learn_too(tmp_path: Path, rule: str) -> None:
    results = run(tmp_path / "r", rule=rule, precision="bf16", channels_last=True, deterministic=True, epochs=3)
    assert results.status == "finished"
    assert results.accuracy > 0.8
    found, _ = checkpoint.load_newest(tmp_path / "r" / "checkpoints")
    assert found is not None
    assert {v.dtype for v in found.model.values()} == {torch.float32, torch.int64}  # the weights stay in full precision


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_run_is_the_plain_one(tmp_path: Path) -> None:
    plain, compiled = run(tmp_path / "a", epochs=1), run(tmp_path / "b", epochs=1, compile=True)
    assert compiled.accuracy == pytest.approx(plain.accuracy, abs=0.03)
    for a, b in zip(events(tmp_path / "a", "step"), events(tmp_path / "b", "step"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-2)


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path / "r", epochs=1, log=["tensorboard"])
    board = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    board.Reload()
    written = [scalar.value for scalar in board.Scalars("step/loss")]
    assert written == pytest.approx([line["loss"] for line in events(tmp_path / "r", "step")], rel=1e-6)
    assert "readings/values/weight_angle/readout" in board.Tags()["scalars"]


def test_the_mean_loss_of_the_lines_is_that_of_the_epoch(tmp_path: Path) -> None:
    run(tmp_path / "r", epochs=1)
    lines = events(tmp_path / "r", "step")
    weights = [5, 5, 5, 2]
    mean = sum(w * line["loss"] for w, line in zip(weights, lines, strict=True)) / 17
    assert events(tmp_path / "r", "evaluation")[1]["train_loss"] == pytest.approx(mean, rel=1e-12)


def test_every_epoch_of_a_training_has_an_order_of_its_own_and_every_example() -> None:
    config = resolve({**QUICK, "batch_size": 8})
    data = limited(dataset_of(config, torch.device("cpu")), 32)
    batches = Batches(data, config, HERE)
    seen = [[image.sum().item() for image in batches.at(0, step)[0]] for step in range(12)]
    epochs = [[image for part in seen[k : k + 4] for image in part] for k in (0, 4, 8)]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [image.sum().item() for image in Batches(data, config, HERE).at(0, 5)[0]] == seen[5]  # begun in the middle


def test_of_equally_good_epochs_the_first_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a report says it; the untrained network counts for none of them."""
    accuracies = iter([0.9, 0.4, 0.5, 0.5, 0.7])
    monkeypatch.setattr(arm, "evaluate", lambda *_: {"loss": 1.0, "accuracy": next(accuracies), "top5": 1.0})
    found = run(tmp_path / "run", epochs=3)
    assert (found.best_accuracy, found.best_epoch) == (0.5, 2)
    assert found.accuracy == 0.7
    best = checkpoint.load_best(tmp_path / "run" / "checkpoints")
    assert best.manifest.step == 2 * 17


def test_on_the_whole_training_split_nothing_is_chosen_and_the_test_split_read_once(tmp_path: Path) -> None:
    found = run(tmp_path / "run", epochs=2, split="test")
    path = tmp_path / "run"
    (start,) = events(path, "start")
    assert [start[f"{part}_examples"] for part in ("train", "eval", "test")] == [1437, None, 360]
    evaluations = events(path, "evaluation")
    assert [e["eval_accuracy"] for e in evaluations] == [None] * 3
    assert [e["test_accuracy"] for e in evaluations] == [None, None, found.accuracy]
    assert (found.best_accuracy, found.best_epoch) == (None, None)


def test_on_the_validation_part_the_test_split_is_not_read(tmp_path: Path) -> None:
    found = run(tmp_path / "run", epochs=2, split="validation")
    evaluations = events(tmp_path / "run", "evaluation")
    assert [e["test_accuracy"] for e in evaluations] == [None] * 3
    assert found.accuracy == evaluations[-1]["eval_accuracy"]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["split"] == "validation"


def test_evaluation_counts_every_image_once() -> None:
    config = resolve({**QUICK, "batch_size": 50})
    data = dataset_of(config, torch.device("cpu"))
    model = make_model(config, data, method_of(config)).eval()
    whole = evaluate(model, data.evaluate, config, HERE)
    xs, ys = zip(*data.evaluate.eval_batches(7), strict=True)
    with torch.no_grad():
        logits, y = model(torch.cat(xs)), torch.cat(ys)
    assert len(y) == len(data.evaluate) == 360
    assert whole["accuracy"] == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    assert whole["top5"] == pytest.approx(
        float((logits.argsort(1, descending=True)[:, :5] == y[:, None]).any(1).double().mean())
    )
    assert whole["loss"] == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)


def test_a_diverged_run_stops_names_the_place_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    results = run(tmp_path / "r", learning_rate=1e30, checkpoint_every=1)
    assert results.status == "diverged"
    assert "step" in results.reason
    assert results.layer
    found, problems = checkpoint.load_newest(tmp_path / "r" / "checkpoints")
    assert found is not None
    assert problems == []
    assert all(bool(v.isfinite().all()) for v in found.model.values())
    assert events(tmp_path / "r", "diverged")[0]["reason"] == results.reason


def test_a_model_that_is_bad_before_training_is_a_diverged_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = arm.make_model

    def broken(*args: Any) -> torch.nn.Module:
        model = made(*args)
        with torch.no_grad():
            model.get_parameter("readout.weight").fill_(math.nan)
        return model

    monkeypatch.setattr(arm, "make_model", broken)
    results = run(tmp_path / "r")
    assert results.status == "diverged"
    assert results.layer == "readout.weight"
    assert results.collapsed == ()


def test_the_first_bad_layer_is_named() -> None:
    model = mlp("symmetric_alignment")
    x, _ = batch()
    assert first_bad(model, x) == "the loss"
    with torch.no_grad():
        model[2].weight[0, 0] = math.inf
    assert first_bad(model, x) == "2 (its weight is not finite)"
    x[0, 0] = math.nan
    assert first_bad(model, x) == "the input batch itself"


def test_collapsed_and_dead_layers_are_named(tmp_path: Path) -> None:
    results = run(tmp_path / "r", backward_rate=0.0, epochs=1)
    angles = results.readings["weight_angle"]
    assert results.collapsed == tuple(name for name, angle in angles.items() if angle >= 85)
    assert results.collapsed
    model = mlp("symmetric_alignment")
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    model[2].weight.grad = torch.ones_like(model[2].weight)
    assert dead(model) == ["0"]
    assert collapsed(model, {"0": 90.0, "2": 10.0}) == ["0"]
    assert collapsed(mlp("feedback_alignment"), {"0": 90.0}) == []  # its B is not meant to learn


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    # Means over the examples: a mean over ranks is the mean over the joined batch.
    plain = {"reduction": "mean", "cadence": {}, "amp": 0.003, "sparse": 0.003}
    rule = {"rule": "activation_alignment", "rule_options": plain}
    settings = {**QUICK, **rule, "epochs": 2, "log_every": 1, "sync_batch_norm": True}
    assert finish(settings, tmp_path / "one", resume=False) == [0]
    assert finish({**settings, "dump": True}, tmp_path / "two", resume=False, world=2) == [0, 0]
    one, two = (events(tmp_path / name, "step") for name in ("one", "two"))
    assert len(one) == 34
    for a, b in zip(one[:10], two[:10], strict=True):  # rounding grows with every step
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.05)
    a, b = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("rule", ["feedback_alignment", "sign_symmetry", "symmetric_alignment"])
@pytest.mark.slow
def test_b_stays_bit_equal_across_processes_without_being_sent(tmp_path: Path, rule: str) -> None:
    sync = rule != "symmetric_alignment"  # without it, all end with the leader's statistics
    settings = {**QUICK, "rule": rule, "epochs": 1, "dump": True, "sync_batch_norm": sync}
    assert finish(settings, tmp_path / "two", resume=False, world=2) == [0, 0]
    a, b = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("launched", [False, True])
def test_a_second_signal_leaves_at_once_unless_the_launcher_repeats_it(
    monkeypatch: pytest.MonkeyPatch, launched: bool
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    else:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with Stopper() as stopper:
        signal.raise_signal(signal.SIGTERM)
        assert stopper.signal == signal.SIGTERM
        assert left == []
        signal.raise_signal(signal.SIGTERM)
        assert left == ([] if launched else [143])
    assert signal.getsignal(signal.SIGTERM) is before


# -- what can go wrong ------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_with_the_reason_and_the_last_checkpoint_intact(tmp_path: Path) -> None:
    path = tmp_path / "r"
    assert finish({**QUICK, "epochs": 1, "log_every": 1}, path, resume=False) == [0]
    size = max(p.stat().st_size for p in path.rglob("*") if p.is_file())
    grown = {**QUICK, "epochs": 12, "log_every": 1, "largest_file": size + 2000}  # the log outgrows this
    assert finish(grown, path) == [1]
    message = (tmp_path / "errors-0.txt").read_text()
    assert message.startswith("RunError")
    assert "is intact" in message
    found, problems = checkpoint.load_newest(path / "checkpoints")
    assert found is not None
    assert problems == []
    assert finish({**QUICK, "epochs": 12, "log_every": 1}, path) == [0]


def test_a_place_that_cannot_be_written_is_an_error_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        run(tmp_path / "file" / "r")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "something").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        run(tmp_path / "taken")
    assert (tmp_path / "taken" / "something").read_text() == "precious"


def test_a_folder_that_becomes_read_only_ends_the_run_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.save

    def fails_later(folder: Path, step: int, *args: Any) -> Path:
        if step:
            raise OSError(30, "Read-only file system", str(folder))
        return real(folder, step, *args)

    monkeypatch.setattr(checkpoint, "save", fails_later)
    with pytest.raises(RunError, match=r"Read-only file system.*the checkpoint of step 0 is intact"):
        run(tmp_path / "r")


@pytest.mark.parametrize("changed", [{"name": "mlp", "options": {"hidden": [4]}}, {"options": {"width": 3}}])
def test_weights_that_do_not_fit_the_settings_are_one_line(tmp_path: Path, changed: dict[str, Any]) -> None:
    run(tmp_path / "run", max_steps=2)
    config = resolve({"model": {"name": "digits_conv", "options": {"width": 4}}}, {"model": changed})
    with pytest.raises(StateError, match=r"step-000000002: the weights do not fit the model of") as told:
        load_model(tmp_path / "run", config, "last")
    assert "\n" not in str(told.value)


def test_bad_settings_leave_no_folder(tmp_path: Path) -> None:
    for changes in ({"model": "resnet9"}, {"rule": "symmetric"}, {"data": "digit"}, {"batch_size": 100_000}):
        with pytest.raises(ValueError, match=r"expected|unknown|Did you mean"):
            run(tmp_path / "r", **changes)
        assert not (tmp_path / "r").exists()


def test_a_lost_process_ends_the_others_with_a_clear_message(tmp_path: Path) -> None:
    from train.processes import start

    settings = {**QUICK, "epochs": 500, "checkpoint_every": 5, "sync_batch_norm": True}
    first, second = start(settings, tmp_path / "r", world=2)
    for _ in range(1000):
        if (tmp_path / "r" / "checkpoints" / "step-000000010").exists() or first.exitcode is not None:
            break
        first.join(0.02)
    second.kill()
    second.join()
    first.join(600)
    if first.exitcode is None:
        first.kill()
        pytest.fail("the first process hangs")
    assert first.exitcode == 1
    message = (tmp_path / "errors-0.txt").read_text()
    assert "another process of this run was lost" in message
    assert checkpoint.load_newest(tmp_path / "r" / "checkpoints")[1] == []


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({"mirror_rows": 2}, [0]),
        ({"mirror_rows": 2, "mirror_every": 2}, [0, 2]),
        ({"mirror_steps": 1}, [0, 1, 2, 3]),
        ({"mirror_steps": 1, "mirror_every": 0}, [0]),
    ],
)
@pytest.mark.slow
def test_a_mirror_phase_comes_before_the_epochs_that_the_settings_say(
    settings: dict[str, Any], epochs: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seeds: list[int] = []
    run = NoisePhase.run

    def noted(self: NoisePhase, model: torch.nn.Module, seed: int, state: Any = None) -> Any:
        seeds.append(seed)
        return run(self, model, seed, state)

    monkeypatch.setattr(NoisePhase, "run", noted)
    quick = {"data": "digits", "model": "mlp", "rule": "kolen_pollack", "epochs": 4, "limit": 64, "batch_size": 32}
    train(resolve(quick | settings), tmp_path / "run", lambda progress: None)
    assert seeds == epochs  # of seed 0: that of an epoch is its number
