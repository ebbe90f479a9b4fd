"""Settings of ``backroads meta``: one schema for flags, TOML and code. Imports no torch, for a quick ``--help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from backroads.errors import ConfigError, nearest
from backroads.plasticity.rule import Finite, LocalRule
from backroads.runs.groups import Group, merged
from backroads.runs.settings import checked, read_run

# What a learner is: settings that differ from those of "flp". Flags and TOML override them.
LEARNERS: dict[str, dict[str, Any]] = {
    "flp": {},
    # Comparators.
    "oml": {"rule": "gradient", "initial_weights": "random_head"},
    "oml_first_order": {"rule": "gradient", "second_order": False, "initial_weights": "random_head"},
    "oml_rates": {"rule": "gradient", "learned_rates": True, "initial_weights": "random_head"},
    "sgd_scratch": {"rule": "gradient", "meta_steps": 0},
    "sgd_pretrained": {"rule": "gradient", "pretrain": True, "initial_weights": "random_head"},
    "dfa": {
        "rule": "hebb",
        "signal": "error",
        "linear_feedback": True,
        "gate": "relu",
        "output_shift": "signal",
        "granularity": "layer",
        "initial_plasticity": 0.01,
        "initial_strength": 1.0,
        "hidden_multiplier": 1.0,
        "lr_feedback": 0.0,
        "lr_plasticity": 0.0,
        "lr_strength": 0.0,
    },
    # One thing changed in flp each.
    "flp_fixed_feedback": {"lr_feedback": 0.0},
    "flp_no_feedback": {"hidden_shift": "none"},
    "flp_zero_strength": {"initial_strength": 0.0, "lr_strength": 0.0},
    "flp_output_only": {"plastic_layers": "output"},
    "flp_nowhere": {"plastic_layers": "none"},
    "flp_fixed_plasticity": {"lr_plasticity": 0.0},
    "flp_random_start": {"initial_weights": "random"},
    "flp_zero_start": {"initial_weights": "zero"},
    "flp_by_neuron": {"granularity": "neuron"},
    "flp_by_layer": {"granularity": "layer"},
    "flp_by_network": {"granularity": "network"},
    "flp_target": {"signal": "target"},
    "flp_error": {"signal": "error"},
    "flp_hebb": {"rule": "hebb"},
    "flp_polynomial": {"rule": "polynomial", "granularity": "layer", "lr_coefficients": 1e-4},  # at 1e-3 it explodes
    "flp_linear_feedback": {"linear_feedback": True},
    "flp_gate": {"gate": "relu", "signal": "error"},
}

# Defaults where tasks are classes of images; those of the fields are for sinusoids. Both are those of the reference's
# example scripts.
IMAGES: dict[str, Any] = {
    "tasks": 5,
    "steps_per_task": 5,
    "batch_size": 1,
    "hidden": [128],
    "head": 1000,
    "front": "conv",
    "signal": "target",
    "output_shift": "signal",
    "hidden_multiplier": 100.0,
    "initial_strength": 1.0,
    "lr_plasticity": 1e-5,
    "lr_strength": 0.0,
    "inner_lr": 0.01,
    "drop_steps": [],
}


Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TaskSettings(Group):
    """What lifetimes are about."""

    task: str = "sinusoid"
    """What is learned in a lifetime: sinusoid (regression), or classes of images: omniglot, folder:PATH or npz:PATH."""
    root: str | None = None
    """Folder that holds Omniglot's files."""
    download: bool = False
    """Let torchvision download Omniglot into --root if it is not there."""
    order: Literal["iid", "continual"] = "iid"
    """Order of a lifetime's examples: all tasks mixed (iid), or one task after another (continual)."""
    tasks: Annotated[int, Field(ge=1, le=1000)] = 10
    """Tasks of a lifetime: sinusoids, or classes. Default for images: 5."""
    steps_per_task: Count = 40
    """Steps of a lifetime for each task; with images, examples of each class. Default for images: 5."""
    batch_size: Count = 32
    """Examples in one step of a lifetime. Default for images: 1."""
    pool: Count = 400
    """How many sinusoids there are to meta-train on; they are drawn once."""
    image_size: Annotated[int, Field(ge=8)] = 84
    """Images are resized to squares of so many pixels."""
    validation_classes: Count = 100
    """Classes held out of the training ones for validation, where the data have no such split."""
    labels: Literal["first", "any"] = "first"
    """Which outputs of the network classes get in meta-training: 0 to tasks - 1 (first), or any."""
    eval_learn: Count = 15
    """Images of each class, the first ones, to learn from in evaluations."""
    eval_test: Count = 5
    """Images of each class, those that follow, to test on in evaluations."""

    @property
    def is_images(self) -> bool:
        """Whether tasks are classes of images."""
        return self.task != "sinusoid"


class NetworkSettings(Group):
    """The network and its meta-parameters before meta-training."""

    front: Literal["none", "conv"] = "none"
    """What comes before the linear layers and does not change in a lifetime: none, or 3x3 convolutions. Default for
    images: conv."""
    channels: Count = 128
    """Channels of each convolution."""
    strides: list[Count] = Field(default=[2, 1, 2, 1, 2, 2], min_length=1)
    """Strides of the convolutions."""
    hidden: list[Count] = Field(default=[300, 300, 300, 300, 300, 900, 300, 300])
    """Units of each hidden linear layer. Default for images: [128]."""
    head: Count = 1
    """Outputs of the network. Default for images: 1000."""
    initial_weights: Literal["learned", "zero", "random", "random_head"] = "learned"
    """Plastic weights at the start of a lifetime: meta-learned, zero, drawn anew for each lifetime, or only those of
    the last layer drawn anew (random_head)."""
    feedback_layers: Count = 1
    """Layers of each path from the output to a layer's activity."""
    feedback_width: Count = 128
    """Units between the layers of such a path."""
    granularity: Literal["synapse", "neuron", "layer", "network"] = "synapse"
    """What has a plasticity of its own: every synapse, neuron or layer, or the whole network."""
    initial_plasticity: Finite = 0.0
    """Plasticity before meta-training."""
    initial_strength: Finite = 0.5
    """Share of the feedback in the shifted activity, before meta-training. Default for images: 1.0."""
    initial_coefficients: list[Finite] = Field(default=[])
    """The 24 coefficients of rule 'polynomial' in each layer before meta-training: for each of 1, z, f, z^2, z f and
    f^2 those of 1, W, x and x W. Default: Oja's rule."""
    learned_rates: bool = False
    """Meta-learn the step sizes of rule 'gradient', at the given granularity; they begin at --inner-lr."""


class MetaSettings(Group):
    """Meta-training: gradient descent (Adam) on the meta-parameters, through whole lifetimes."""

    meta_steps: Annotated[int, Field(ge=0)] = 20_000
    """Steps of meta-training."""
    meta_batch_size: Count = 1
    """Lifetimes in each step of meta-training."""
    lr_forward: Rate = 1e-4
    """Adam's rate for forward weights and biases."""
    lr_feedback: Rate = 1e-4
    """Adam's rate for feedback weights and biases."""
    lr_plasticity: Rate = 1e-8
    """Adam's rate for plasticity and learned step sizes. Default for images: 1e-05."""
    lr_strength: Rate = 1e-4
    """Adam's rate for the strengths of feedback. Default for images: 0.0."""
    lr_coefficients: Rate = 1e-3
    """Adam's rate for the coefficients of rule 'polynomial'; learner flp_polynomial has 1e-4."""
    drop_steps: list[int] = Field(default=[1500, 2500, 3500])
    """Meta-steps at which --lr-forward drops to 0.3 of itself. Default for images: []."""
    pretrain: bool = False
    """Train in the ordinary supervised way instead, without lifetimes."""
    vary_length: bool = False
    """End each lifetime at random between a tenth and all of its steps."""
    batch_learning: bool = False
    """Show all examples of a lifetime at once, in a single step."""
    checkpoint_segments: Count = 1
    """Cut lifetimes into so many parts, computed twice to save memory (activation checkpointing)."""
    meta_clip: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """Clip the norm of the meta-gradient, over all meta-parameters, to this. Where one lifetime nearly explodes, its
    gradient would otherwise fill Adam's averages for thousands of meta-steps. The reference does not clip it."""
    if_not_finite: Literal["skip", "shrink"] = "skip"
    """What to do where a meta-gradient is not finite: nothing moves (skip), or plasticity and learned step sizes are
    halved, so that lifetimes that explode become stable again (shrink). The reference skips."""
    skip_limit: Count = 50
    """Stop after so many meta-steps in a row whose gradient is not finite; they are skipped."""


class RunSettings(Group):
    """The run."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the weights and of all lifetimes."""
    device: str = "auto"
    """Where to compute: cpu, cuda, or auto for a GPU if there is one."""
    threads: Annotated[int | None, Field(ge=1, le=1024)] = None
    """CPU threads. Default: torch's choice."""
    front_precision: Literal["fp32", "bf16"] = "fp32"
    """In what the convolutions of the front are computed; with bf16 those of wide fronts take a third of the time."""
    eval_every: Count = 500
    """Meta-steps between evaluations on validation tasks."""
    eval_lifetimes: Count = 20
    """Lifetimes of each of these evaluations."""
    log_every: Count = 20
    """Meta-steps between lines of the log."""
    checkpoint_every: Count = 500
    """Meta-steps between checkpoints."""
    keep: Count = 2
    """How many of the newest checkpoints to keep, beside the best one."""
    log: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default=[])
    """Send the numbers of the log to TensorBoard, Weights & Biases or MLflow as well."""


class MetaConfig(Group):
    """Settings of ``backroads meta train``: tables in TOML, flags without the table's name."""

    learner: Annotated[str, Field(description=f"What learns, as settings by name: {', '.join(LEARNERS)}.")] = "flp"
    task: TaskSettings = TaskSettings()
    network: NetworkSettings = NetworkSettings()
    plasticity: LocalRule = LocalRule()
    meta: MetaSettings = MetaSettings()
    run: RunSettings = RunSettings()


# What may differ when a run goes on: nothing that the weights or the log depend on. Meta-steps may grow.
HARMLESS, GROWING = frozenset({"root", "download", "keep", "device", "threads", "log"}), frozenset({"meta_steps"})


def resolve(given: dict[str, Any], flags: dict[str, Any] | None = None) -> MetaConfig:
    """Check settings and fill in the defaults that go with the task and the learner.

    Args:
        given: settings, in their tables or by name alone: ``{"learner": "oml", "tasks": 5}``. A table "gradient" holds
            what differs where the rule is "gradient", as rates that were chosen for OML.
        flags: settings that override them, likewise. A learner among them overrides ``given`` too: an ablation that a
            flag names stays one, whatever the recipe.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    flags = merged(MetaConfig, flags or {})
    of_gradient, given = given.get("gradient", {}), {key: value for key, value in given.items() if key != "gradient"}
    if not isinstance(of_gradient, dict):
        raise ConfigError(f"gradient: expected a table of settings, got {of_gradient!r}")
    checked(MetaConfig, merged(MetaConfig, of_gradient))  # whether it is for this learner or not
    both = merged(MetaConfig, given, flags)
    images = _in(both, "task", "task") not in (None, "sinusoid")
    learner = _of_learner(str(both.get("learner", "flp")), images)
    between = (given, learner) if "learner" in flags else (learner, given)
    below = merged(MetaConfig, IMAGES if images else {}, *between)
    if _in(merged(MetaConfig, below, flags), "plasticity", "rule") == "gradient":
        below = merged(MetaConfig, below, of_gradient)
    config = checked(MetaConfig, merged(MetaConfig, below, flags))
    _check(config)
    return config


def _in(settings: dict[str, Any], table: str, name: str) -> Any:
    found = settings.get(table)
    return found.get(name) if isinstance(found, dict) else None


def _of_learner(name: str, images: bool) -> dict[str, Any]:
    if name not in LEARNERS:
        raise ConfigError(f"learner: expected one of {', '.join(LEARNERS)}, got {name!r}.{nearest(name, LEARNERS)}")
    learner = LEARNERS[name]
    if learner.get("initial_weights") == "random_head" and not images:
        return {**learner, "initial_weights": "learned"}  # the reference draws heads of classes only
    return learner


def _check(config: MetaConfig) -> None:
    """Fields fit together; raises ConfigError. Not a validator: flags alone lack what goes with task and learner."""
    task, network, frozen = config.task, config.network, config.plasticity.frozen_layers
    images, linear = task.is_images, len(network.hidden) + 1
    wrong = [
        (images and task.tasks < 2, f"tasks: expected 2 to 1000 classes, got {task.tasks}"),
        (
            images and task.tasks > network.head,
            f"head: expected at least {task.tasks} outputs for as many classes, got {network.head}",
        ),
        (not images and network.head != 1, f"head: expected 1 output for sinusoids, got {network.head}"),
        (not images and network.front != "none", f"front: expected 'none' for sinusoids, got {network.front!r}"),
        (
            not images and task.tasks > task.pool,
            f"tasks: expected at most the {task.pool} sinusoids of the pool, got {task.tasks}",
        ),
        (
            len(network.initial_coefficients) not in (0, 24),
            f"initial_coefficients: expected 24 numbers, got {len(network.initial_coefficients)}",
        ),
        (
            config.plasticity.rule == "polynomial" and config.plasticity.reduction == "power",
            "reduction: expected 'sum' or 'mean' for rule 'polynomial', got 'power'",
        ),
        (
            config.learner == "flp_fixed_plasticity" and network.initial_plasticity == 0,
            "initial_plasticity: expected a number other than 0 where it is never learned, got 0",
        ),
        (frozen > linear, f"frozen_layers: expected at most the {linear} linear layers, got {frozen}"),
    ]
    if found := [message for is_wrong, message in wrong if is_wrong]:
        raise ConfigError("\n".join(found))


def load_config(run: Path, root: str | None = None) -> MetaConfig:
    """The settings of a meta-training from its folder, with ``root`` as that of the data, if it is given.

    Raises:
        ConfigError: for a folder that is none.
    """
    given = read_run(run)
    if "learner" not in given:
        raise ConfigError(f"expected the folder of a meta-training, and {run} is another run's")
    return resolve(given, {} if root is None else {"root": root})
