"""Meta-training: learners, exact resume, non-finite gradients, evaluation and analysis."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from gloo import results

from backroads.errors import ConfigError, StateError
from backroads.plasticity.analysis import analyse, degrees, feedback_angles, interference
from backroads.plasticity.evaluate import Measured, choose_rate, measure
from backroads.plasticity.lifetime import Stream, lifetime, loss_of, predict
from backroads.plasticity.network import Convolutions, MetaNetwork
from backroads.plasticity.rule import LocalRule
from backroads.plasticity.settings import IMAGES, LEARNERS, MetaConfig, resolve
from backroads.plasticity.tasks.episode import Episodes, Tasks
from backroads.plasticity.tasks.load import load_tasks
from backroads.plasticity.tasks.sinusoids import Sinusoids
from backroads.plasticity.trainer import MetaTraining, load_run, meta_gradient, meta_train, not_finite
from backroads.reproduce.outcome import of_lifetimes
from backroads.runs import checkpoint
from backroads.runs.groups import groups
from backroads.runs.progress import Progress
from backroads.runs.runtime import Runtime
from backroads.runs.schema import MetaResults
from backroads.runs.settings import read_settings, recipes

SMALL: dict[str, Any] = {
    "tasks": 3,
    "steps_per_task": 2,
    "batch_size": 4,
    "hidden": [6, 5],
    "meta_steps": 8,
    "eval_every": 4,
    "eval_lifetimes": 3,
    "log_every": 3,
    "checkpoint_every": 2,
    "lr_plasticity": 1e-4,
    "threads": 1,
    "device": "cpu",
}


def small(**changes: Any) -> MetaConfig:
    return resolve({**SMALL, **changes})


def made(config: MetaConfig) -> tuple[MetaNetwork, Tasks]:
    tasks = load_tasks(config)
    return MetaNetwork(config, tasks.shape), tasks


def trained(config: MetaConfig, path: Path, *, resume: bool = False) -> MetaResults:
    results = meta_train(config, path, lambda progress: None, resume=resume)
    assert isinstance(results, MetaResults)
    return results


class Killed(Exception):
    pass


def last(path: Path) -> checkpoint.Checkpoint:
    found = checkpoint.load_newest(path / "checkpoints")[0]
    assert found is not None
    return found


# Weights, biases, feedback B and c, plasticity, strength and coefficients t that meta-training moves, where not all do.
TRAINED = {
    **dict.fromkeys(("oml", "oml_first_order", "sgd_pretrained"), "Wb"),
    "oml_rates": "Wbp",
    "sgd_scratch": "",
    "dfa": "Wb",
    "flp_fixed_feedback": "Wbps",
    "flp_zero_strength": "Wbp",  # and what feedback brings has no effect
    "flp_nowhere": "Wb",
    "flp_fixed_plasticity": "WbBcs",
    **dict.fromkeys(("flp_random_start", "flp_zero_start"), "Bcps"),  # all layers are plastic, and begin anew
    "flp_polynomial": "WbBcpt",
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_trains_what_it_should_and_nothing_else(learner: str, tmp_path: Path) -> None:
    few = {} if learner == "sgd_scratch" else {"meta_steps": 2}  # which has none
    small = {name: value for name, value in SMALL.items() if name != "meta_steps"}
    # From zeros no error comes back before all layers have grown a little.
    plasticity = 0.01 if learner == "flp_zero_start" else 1e-3
    config = resolve(small, {"learner": learner, "initial_plasticity": plasticity, **few})
    before = made(config)[0].state_dict()
    assert trained(config, tmp_path / "run").status == "finished"
    moved = {name for name, value in last(tmp_path / "run").model.items() if not torch.equal(value, before[name])}
    letters = {name.removeprefix("meta.")[0] for name in moved}
    assert letters == set(TRAINED.get(learner, "WbBcps"))


def test_a_clipped_meta_gradient_has_the_norm_and_moves_along_itself() -> None:
    config = small(meta_clip=1e-3, meta_batch_size=2)
    network, tasks = made(config)
    training = MetaTraining(network, tasks)
    meta_gradient(network, tasks.episodes("train", 0, 2), 0)
    plain = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in plain]).norm()
    assert norm > 1e-3
    network.zero_grad()
    training.step(0)
    for gradient, p in zip(plain, (p for p in network.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(p.grad, gradient * (1e-3 / norm), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", IMAGES)
def test_the_help_of_a_setting_names_its_default_for_images(name: str) -> None:
    (about,) = (group.model_fields[name] for group in groups(MetaConfig).values() if name in group.model_fields)
    assert f"Default for images: {IMAGES[name]}." in " ".join((about.description or "").split())


def test_a_learner_changes_what_its_name_says() -> None:
    assert small(learner="oml_first_order").plasticity.second_order is False
    assert small(learner="flp_output_only").plasticity.plastic_layers == "output"
    assert small(learner="dfa").plasticity.gate == "relu"
    assert small(learner="flp_hebb", rule="oja").plasticity.rule == "oja"  # settings override a learner
    recipe = {**SMALL, "lr_feedback": 1.0, "lr_plasticity": 1.0}
    assert resolve(recipe, {"learner": "flp_fixed_feedback"}).meta.lr_feedback == 0.0  # but not a learner of a flag
    assert resolve(recipe, {"learner": "dfa", "lr_plasticity": 2.0}).meta.lr_plasticity == 2.0
    recipe |= {"gradient": {"inner_lr": 0.5, "lr_forward": 3.0}}
    oml, flp = (resolve(recipe, {"learner": learner}) for learner in ("oml_first_order", "flp"))
    assert (oml.plasticity.inner_lr, oml.meta.lr_forward) == (0.5, 3.0)
    assert flp.meta.lr_forward == resolve(SMALL).meta.lr_forward
    assert resolve(recipe, {"learner": "oml", "inner_lr": 0.1}).plasticity.inner_lr == 0.1
    for wrong, message in (
        ({"learner": "flp_fixed_plasticity"}, "initial_plasticity: expected a number other than 0"),
        ({"gradient": {"inner_rate": 1.0}}, "unknown setting 'inner_rate'"),
        ({"gradient": 3}, "gradient: expected a table of settings, got 3"),
        ({"learner": "om"}, "Did you mean 'oml'"),
        ({"task": {"taks": 3}}, "unknown setting 'task.taks'. Did you mean 'tasks'"),
        ({"init_weights": "zero"}, "unknown setting 'init_weights'. Did you mean 'initial_weights'"),
        ({"hidden": [3, 0]}, "network.hidden.1: expected greater than or equal to 1, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            small(**wrong)


@pytest.mark.parametrize("changes", [{}, {"learner": "flp_random_start", "vary_length": True, "meta_batch_size": 2}])
@pytest.mark.parametrize("stop", [1, 5, 7])
def test_a_killed_run_that_goes_on_is_the_run_that_never_was(
    tmp_path: Path, changes: dict[str, Any], stop: int
) -> None:
    config = small(**changes)
    trained(config, tmp_path / "whole")

    def kill(progress: Progress) -> None:
        if progress.done == stop and progress.line is None:
            raise Killed

    with pytest.raises(Killed):
        meta_train(config, tmp_path / "killed", kill)
    trained(config, tmp_path / "killed", resume=True)
    whole, killed = last(tmp_path / "whole"), last(tmp_path / "killed")
    assert all(torch.equal(value, killed.model[name]) for name, value in whole.model.items())
    assert (tmp_path / "whole" / "events.jsonl").read_bytes() == (tmp_path / "killed" / "events.jsonl").read_bytes()


def test_a_run_goes_on_to_more_meta_steps_but_not_with_other_settings(tmp_path: Path) -> None:
    trained(small(), tmp_path / "run")
    before = (tmp_path / "run" / "results.json").read_bytes()
    trained(small(), tmp_path / "run", resume=True)  # it has ended
    assert (tmp_path / "run" / "results.json").read_bytes() == before
    for changes, message in (({"lr_forward": 1.0}, "0.0001, now 1.0"), ({"meta_steps": 7}, "the run has 8, now 7")):
        with pytest.raises(ConfigError, match=message):
            trained(small(**changes), tmp_path / "run", resume=True)
    assert trained(small(meta_steps=9), tmp_path / "run", resume=True).step == 9


def test_gradients_that_are_not_finite_move_nothing_are_named_and_end_the_run(tmp_path: Path) -> None:
    config = small(initial_plasticity=1e6, skip_limit=3, steps_per_task=30, log_every=1)
    results = trained(config, tmp_path / "run")
    assert results.status == "diverged"
    assert (results.step, results.skipped) == (2, 3)  # the third was not taken
    assert "meta.W0" in results.skipped_by_parameter
    assert "not finite" in (results.reason or "")
    before = made(config)[0].state_dict()
    assert all(torch.equal(value, before[name]) for name, value in last(tmp_path / "run").model.items())
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines if line["event"] == "step"] == [1, 2]
    assert lines[-1]["event"] == "diverged"


@pytest.mark.slow
def test_plasticity_that_explodes_is_halved_until_lifetimes_are_stable(tmp_path: Path) -> None:
    """It begins 2^k times too large, for some k: so many steps are skipped, and then the training goes on."""
    config = small(initial_plasticity=1e3, if_not_finite="shrink", steps_per_task=30, meta_steps=60, log_every=1)
    results = trained(config, tmp_path / "run")
    assert results.status == "finished"
    assert 3 < results.skipped < 40
    end = last(tmp_path / "run").model
    assert float(end["meta.p0"].abs().max()) < 1e3 / 2**3
    assert not torch.equal(end["meta.W0"], made(config)[0].state_dict()["meta.W0"])
    assert all(bool(value.isfinite().all()) for value in end.values())


def _gradients(changes: dict[str, Any], world: int, rank: int) -> dict[str, torch.Tensor]:
    """One process: the gradient of its part of the lifetimes, summed over all processes."""
    network, tasks = made(small(**changes))
    runtime = Runtime(torch.device("cpu"), rank, world)
    loss = meta_gradient(network.double(), _doubled(tasks.episodes("train", 3, 5)), 3, runtime)
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {**found, "loss": loss}


def _doubled(episodes: Episodes) -> Episodes:
    wide = {name: value.double() for name, value in vars(episodes).items() if getattr(value, "dtype", 0) == torch.float}
    return dataclasses.replace(episodes, **wide)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"initial_weights": "random"}, {"vary_length": True}, {"learner": "flp_polynomial"}],
    ids=["as it is", "weights drawn", "lengths", "polynomial"],
)
def test_processes_share_the_lifetimes_of_a_meta_step(changes: dict[str, Any], tmp_path: Path) -> None:
    """Two processes, with 2 and 3 of 5 lifetimes, hold the gradient that one makes of all."""
    changes = {"initial_plasticity": 1e-3, **changes}
    alone = _gradients(changes, 1, 0)
    first, second = results(functools.partial(_gradients, changes, 2), tmp_path)
    assert set(alone) == set(first)
    torch.testing.assert_close(first, alone, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Begun by one process and ended by two: the weights of a run by one alone, but for rounding."""
    flags = [
        f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if name not in ("hidden", "meta_steps")
    ]
    words = ["meta", "train", *flags, "--hidden", "6", "5", "--meta-batch-size=4", "--initial-plasticity=1e-3"]
    alone = [sys.executable, "-m", "backroads", *words]
    two = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "backroads",
        *words,
    ]

    def run(command: list[str], folder: str, steps: int, *more: str) -> None:
        done = subprocess.run(
            [*command, f"--meta-steps={steps}", "--out", str(tmp_path / folder), *more], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    run(alone, "whole", 8)
    run(alone, "parts", 4)
    run(two, "parts", 8, "--resume")
    whole, parts = (last(tmp_path / name).model for name in ("whole", "parts"))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_infinities_and_nans_are_both_found_and_large_numbers_are_not() -> None:
    module = torch.nn.Linear(2, 2)
    for value, expected in ((float("inf"), ["bias"]), (float("nan"), ["bias"]), (3e38, [])):
        module.weight.grad, module.bias.grad = torch.zeros(2, 2), torch.full((2,), value)
        assert not_finite(module) == expected


def test_a_meta_step_is_the_gradient_of_the_mean_query_loss() -> None:
    config = small(meta_batch_size=2, initial_plasticity=1e-3)
    network, tasks = made(config)
    episodes = tasks.episodes("train", 0, 2)
    loss = meta_gradient(network, episodes, 0)
    meta = {name: value.detach().clone().requires_grad_() for name, value in network.meta_parameters.items()}
    seen = Stream(episodes.inputs[episodes.support], episodes.y)
    weights, _ = lifetime(meta, seen, LocalRule(rule="oja", signal="error"))
    expected = loss_of(predict(meta, weights, episodes.inputs[episodes.query]), episodes.y_query).mean()
    torch.testing.assert_close(loss, expected.detach())
    expected.backward()
    for name, value in meta.items():
        torch.testing.assert_close(network.meta_parameters[name].grad, value.grad)


def test_pretraining_is_plain_supervised_learning_on_the_query() -> None:
    network, tasks = made(small(learner="sgd_pretrained", meta_batch_size=2))
    episodes = tasks.episodes("train", 0, 2)
    loss = meta_gradient(network, episodes, 0)
    meta = {name: value.detach().clone().requires_grad_() for name, value in network.meta_parameters.items()}
    expected = loss_of(predict(meta, {}, episodes.inputs[episodes.query]), episodes.y_query).mean()
    torch.testing.assert_close(loss, expected.detach())
    expected.backward()
    for name, value in meta.items():
        torch.testing.assert_close(network.meta_parameters[name].grad, value.grad)


def test_batch_learning_is_a_lifetime_of_one_step_with_all_samples() -> None:
    network, tasks = made(small(batch_learning=True, initial_plasticity=1e-3))
    episodes = tasks.episodes("train", 0, 1)
    samples = episodes.support.flatten(1)[:, None]  # (1, one step, all of them)
    y = episodes.y.flatten(1, 2)[:, None]
    weights, _ = lifetime(network.meta_parameters, Stream(episodes.inputs[samples], y), network.rule)
    answers = predict(network.meta_parameters, weights, episodes.inputs[episodes.query])
    torch.testing.assert_close(meta_gradient(network, episodes, 0), loss_of(answers, episodes.y_query).mean().detach())


def test_the_rate_that_is_best_on_validation_tasks_is_chosen() -> None:
    network, tasks = made(small(learner="sgd_scratch"))
    rule, rates, errors = network.rule, (1e-4, 0.03, 1e4), {}
    for rate in rates:
        network.rule = rule.model_copy(update={"inner_lr": rate})
        scores = measure(network, tasks, "validation", 4).scores
        errors[rate] = sum(scores) / len(scores) if all(map(math.isfinite, scores)) else math.inf
    assert errors[1e4] == math.inf or errors[1e4] > errors[1e-4]
    best = min(rates, key=lambda rate: errors[rate])
    assert choose_rate(network, tasks, rates, 4) == network.rule.inner_lr == best
    with pytest.raises(ConfigError, match="rates: expected a run of rule 'gradient'"):
        choose_rate(made(small())[0], tasks, rates, 4)


def test_the_rate_of_forward_weights_drops_at_its_meta_steps_and_no_other_rate_does() -> None:
    """Meta-steps are counted from 0, and one at which the rate drops is taken at the lower rate."""
    network, tasks = made(small(drop_steps=[2, 3], lr_forward=1e-3, lr_feedback=2e-3, lr_strength=3e-3))
    training = MetaTraining(network, tasks)
    seen: dict[str, list[float]] = {group: [] for group in training.optimizers}
    for group, optimizer in training.optimizers.items():
        optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs, group=group: seen[group].append(optimizer.param_groups[0]["lr"])
        )
    for step in range(5):
        training.step(step)
    assert seen["forward"] == pytest.approx([1e-3, 1e-3, 0.3e-3, 0.09e-3, 0.09e-3])
    assert seen["feedback"] == [2e-3] * 5
    assert seen["strength"] == [3e-3] * 5


class Repeated(Tasks):
    """The same episodes whatever their number."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks, self.shape = tasks, tasks.shape

    def episodes(self, split: Any, number: int, count: int, *, tasks: int | None = None) -> Any:
        return self.tasks.episodes(split, 0, count, tasks=tasks)

    def check(self, split: Any, tasks: int) -> None:
        self.tasks.check(split, tasks)


def test_every_lifetime_is_born_with_weights_of_its_own() -> None:
    """Without plasticity, and with the same episode again and again, only the draw at birth tells lifetimes apart."""
    network, tasks = made(small(initial_weights="random"))
    scores = measure(network, Repeated(tasks), "test", 4).scores
    assert len(set(scores)) == 4
    assert measure(network, Repeated(tasks), "test", 4).scores == scores
    episodes = tasks.episodes("train", 0, 1)
    losses = [float(meta_gradient(network, episodes, step)) for step in (0, 1, 2, 0)]
    assert len(set(losses)) == 3
    assert losses[0] == losses[3]


def test_convolutions_have_the_sizes_of_the_reference() -> None:
    config = resolve({"task": "omniglot", "channels": 4})
    network = MetaNetwork(config, (1, 84, 84))
    assert network.front is not None
    assert network.front.features == 9 * 4  # 41, 39, 19, 17, 8, 3
    assert {name: tuple(value.shape) for name, value in network.meta_parameters.items() if name[0] in "Wps"} == {
        "W0": (128, 36),
        "W1": (1000, 128),
        "p0": (128, 36),
        "p1": (1000, 128),
        "s0": (1,),
    }
    with pytest.raises(ConfigError, match="too few for convolutions"):
        MetaNetwork(config, (1, 20, 20))


@pytest.mark.parametrize("start", ["zero", "random", "random_head"])
def test_lifetimes_start_as_the_settings_say(start: str) -> None:
    network, _ = made(small(initial_weights=start))
    weights = network.initial_weights(3, torch.Generator().manual_seed(0))
    shapes = {name: tuple(weights[name].shape) for name in ("W0", "W2")}
    assert shapes == {"W0": (6, 4) if start == "random_head" else (3, 6, 4), "W2": (3, 1, 5)}
    if start == "zero":
        assert not weights["W0"].any()
    else:
        assert not torch.equal(weights["W2"][0], weights["W2"][1])


def test_the_interval_over_lifetimes_is_that_of_a_sample() -> None:
    """Of 1, 2 and 6 the mean is 3 and the sample variance (4 + 1 + 9) / 2 = 7; what is not finite is skipped."""
    found = Measured([1.0, math.nan, 2.0, 6.0], [[3.0]], accuracy=False).summary(5)
    assert (found.mean, found.skipped, found.lifetimes, found.step) == (3.0, 1, 4, 5)
    assert found.interval_95 == pytest.approx(4.302653 * math.sqrt(7 / 3))  # Student, 2 degrees of freedom
    assert Measured([1.0, math.inf], [[1.0]], accuracy=False).summary(0).interval_95 is None


def test_lifetimes_that_explode_are_not_left_out_where_something_is_chosen() -> None:
    assert Measured([0.75, math.nan, 0.75], [[0.75]], accuracy=True).quality == 0.5
    assert Measured([1.0, math.nan], [[1.0]], accuracy=False).quality == -math.inf
    assert Measured([1.0, 3.0], [[2.0]], accuracy=False).quality == -2.0
    assert Measured([], [], accuracy=False).quality == -math.inf
    assert of_lifetimes(Measured([0.75, math.nan, 0.75], [[0.75]], accuracy=True).summary(0))["score"] == 0.5
    # An error counts as that of who answers 0 to sinusoids, which has the mean of y^2.
    y = Sinusoids(resolve({}).task, seed=0).episodes("test", 0, 100).y_query
    zero = math.exp(-(of_lifetimes(Measured([math.nan], [[math.nan]], accuracy=False).summary(0))["score"] or 0.0))
    assert zero == pytest.approx(float(y.square().mean()), rel=0.05)
    half = of_lifetimes(Measured([math.nan, 0.5], [[0.5]], accuracy=False).summary(0))["score"]
    assert half == pytest.approx(-math.log((zero + 0.5) / 2))


def test_the_course_of_a_lifetime_ends_in_its_score_and_is_the_same_in_any_batch() -> None:
    config = small(order="continual", initial_plasticity=1e-3)
    network, tasks = made(config)
    measured = measure(network, tasks, "test", 4)
    found = measured.summary(0)
    assert len(measured.scores) == 4
    assert len(found.course) == 3
    assert sum(found.course[-1]) / 3 == pytest.approx(sum(measured.scores) / 4, rel=1e-5)
    assert found.so_far[-1] == pytest.approx(sum(measured.scores) / 4, rel=1e-5)
    assert found.so_far[0] == found.course[0][0]
    episodes = tasks.episodes("test", 0, 1)
    with torch.no_grad():
        loss = network.query_loss(episodes, torch.Generator())
    assert measured.scores[0] == pytest.approx(float(loss), rel=1e-6)


def test_gradient_updates_lie_along_the_gradient_and_backpropagations_feedback_along_the_transpose() -> None:
    config = small(learner="oml", inner_lr=0.01)
    network, tasks = made(config)
    found = analyse(network, network, tasks, "test", 2, probes=3, step=0)
    assert found.probes in [(0, 2, 5), (0, 3, 5)]
    assert all(angle < 0.1 for angles in found.update_angle["step"].values() for angle in angles)
    between = found.interference
    assert between["own"] == pytest.approx(between["gradient_own"], rel=1e-3)
    assert between["cosine"] == pytest.approx(between["gradient_cosine"], rel=1e-3)
    flp, _ = made(small())
    meta = {name: value.detach().clone() for name, value in flp.meta_parameters.items()}
    meta["B0_0"] = (meta["W2"] @ meta["W1"]).T.contiguous()
    meta["B1_0"] = -meta["W2"].T.contiguous()
    angles = feedback_angles(meta, {})
    assert angles == {"0": pytest.approx(0.0, abs=0.1), "1": pytest.approx(180.0, abs=0.1)}


def test_interference_is_zero_where_nothing_changes_and_angles_are_those_of_geometry() -> None:
    config = small(initial_plasticity=0.0)
    network, tasks = made(config)
    episodes = tasks.episodes("test", 0, 1)
    inputs = network.features(episodes.inputs)
    weights = network.lifetimes(episodes, network.meta_parameters, inputs)
    assert interference(network, network.meta_parameters, weights, episodes, inputs) == {}
    assert degrees(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])) == pytest.approx(45.0)
    assert degrees(torch.zeros(2), torch.ones(2)) is None


def test_without_plastic_layers_there_is_feedback_to_analyse_and_no_update() -> None:
    network, tasks = made(small(learner="flp_nowhere"))
    found = analyse(network, network, tasks, "test", 1, probes=3, step=0)
    assert found.update_angle == found.interference == {}
    assert set(found.feedback_angle) == {"initial", "meta_trained", "end_of_lifetime"}


@pytest.mark.parametrize("name", recipes("meta"))
def test_recipes_are_settings(name: str) -> None:
    assert resolve(read_settings(name, "meta")).meta.meta_steps > 0


def test_a_run_comes_back_from_its_folder(tmp_path: Path) -> None:
    trained(small(), tmp_path / "run")
    network, _, found = load_run(tmp_path / "run", "newest")
    assert found.manifest.step == 8
    assert network.config == small()
    with pytest.raises(ConfigError, match=r"no config\.toml"):
        load_run(tmp_path, "best")
    settings = tmp_path / "run/config.toml"
    settings.write_text(tomli_w.dumps({**resolve(SMALL).model_dump(exclude_none=True), "network": {"hidden": [7]}}))
    with pytest.raises(StateError, match=r"step-000000008: the weights do not fit the model of the run's config\.toml"):
        load_run(tmp_path / "run", "newest")


def test_the_front_is_plain_convolutions_and_may_be_computed_in_bfloat16() -> None:
    """Features as torch's own convolutions make them, and within bfloat16's eight bits of them."""
    fronts = [
        Convolutions((3, 20, 20), 8, [2, 1], torch.Generator().manual_seed(0), bf16=bf16) for bf16 in (False, True)
    ]
    x = torch.rand(5, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    h = x
    for layer, stride in enumerate((2, 1)):
        h = torch.nn.functional.conv2d(h, fronts[0].get_parameter(f"W{layer}"), stride=stride).relu()
    full, half = (front(x) for front in fronts)
    torch.testing.assert_close(full, h.flatten(1), rtol=1e-5, atol=1e-5)
    assert half.dtype == torch.float32
    assert 0 < float((half - full).detach().norm() / full.detach().norm()) < 2**-6
    half.sum().backward()
    assert fronts[1].get_parameter("W0").grad is not None


def test_tensorboard_gets_the_numbers_of_meta_training(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(small(log=["tensorboard"], meta_steps=4, log_every=2, eval_every=2), tmp_path / "r")
    board = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    board.Reload()
    written = [json.loads(line) for line in (tmp_path / "r" / "events.jsonl").read_text().splitlines()]
    for kind, name in (("step", "loss"), ("lifetimes", "mean")):
        expected = [(event["step"], event[name]) for event in written if event.get("event") == kind]
        assert expected
        sent = [(scalar.step, scalar.value) for scalar in board.Scalars(f"{kind}/{name}")]
        assert sent == [(step, pytest.approx(value)) for step, value in expected]
