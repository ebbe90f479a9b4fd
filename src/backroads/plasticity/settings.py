"""Settings of ``backroads meta``: one schema for flags, TOML and code. Imports no torch, for a quick ``--help``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backroads.errors import ConfigError, nearest
from backroads.plasticity.rule import LocalRule
from backroads.runs.settings import checked

# What a learner is: settings that differ from those of "flp". Flags and TOML override them.
LEARNERS: dict[str, dict[str, Any]] = {
    "flp": {},
    # Comparators.
    "oml": {"rule": "gradient", "start": "random_head"},
    "oml_first_order": {"rule": "gradient", "second_order": False, "start": "random_head"},
    "oml_rates": {"rule": "gradient", "learned_rates": True, "start": "random_head"},
    "sgd_scratch": {"rule": "gradient", "pretrain": False, "meta_steps": 0},
    "sgd_pretrained": {"rule": "gradient", "pretrain": True, "start": "random_head"},
    "dfa": {
        "rule": "hebb",
        "signal": "error",
        "linear_feedback": True,
        "gate": "relu",
        "output": "signal",
        "plasticity": "layer",
        "init_plasticity": 0.01,
        "init_strength": 1.0,
        "multiplier": 1.0,
        "lr_feedback": 0.0,
        "lr_plasticity": 0.0,
        "lr_strength": 0.0,
    },
    # One thing changed in flp each.
    "flp_fixed_feedback": {"lr_feedback": 0.0},
    "flp_no_feedback": {"hidden_signal": "none"},
    "flp_zero_strength": {"init_strength": 0.0, "lr_strength": 0.0},
    "flp_output_only": {"plastic": "output"},
    "flp_nowhere": {"plastic": "none"},
    "flp_fixed_plasticity": {"lr_plasticity": 0.0, "init_plasticity": 1e-4},
    "flp_random_start": {"start": "random"},
    "flp_zero_start": {"start": "zero"},
    "flp_by_neuron": {"plasticity": "neuron"},
    "flp_by_layer": {"plasticity": "layer"},
    "flp_by_network": {"plasticity": "network"},
    "flp_target": {"signal": "target"},
    "flp_error": {"signal": "error"},
    "flp_hebb": {"rule": "hebb"},
    "flp_linear_feedback": {"linear_feedback": True},
    "flp_gate": {"gate": "relu", "signal": "error"},
}

# Settings that go with a kind of task: the reference's for its two examples, smaller rates apart.
SINUSOID: dict[str, Any] = {
    "tasks": 10,
    "steps_per_task": 40,
    "batch": 32,
    "hidden": [300, 300, 300, 300, 300, 900, 300, 300],
    "head": 1,
    "front": "none",
    "signal": "error",
    "output": "feedback",
    "multiplier": 1.0,
    "init_strength": 0.5,
    "lr_plasticity": 1e-8,
    "lr_strength": 1e-4,
    "inner_lr": 0.003,
    "decay_at": [1500, 2500, 3500],
}
IMAGES: dict[str, Any] = {
    "tasks": 5,
    "steps_per_task": 5,
    "batch": 1,
    "hidden": [128],
    "head": 1000,
    "front": "conv",
    "signal": "target",
    "output": "signal",
    "multiplier": 100.0,
    "init_strength": 1.0,
    "lr_plasticity": 1e-5,
    "lr_strength": 0.0,
    "inner_lr": 0.01,
    "decay_at": [],
}


class MetaConfig(BaseModel):
    """Settings of ``backroads meta train``. None takes what goes with the task and the learner."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    task: str = Field("sinusoid", description="sinusoid, omniglot, folder:PATH or npz:PATH.")
    root: str | None = Field(None, description="Folder of Omniglot's files.")
    download: bool = Field(False, description="Fetch Omniglot with torchvision if it is not there.")
    order: Literal["iid", "continual"] = Field("iid", description="All tasks mixed, or one task after another.")
    learner: str = Field("flp", description=f"One of {', '.join(LEARNERS)}.")

    tasks: int = Field(10, ge=1, le=1000, description="Tasks (classes) of an episode.")
    steps_per_task: int = Field(40, ge=1, description="Inner steps a task; of classes: drawings, one a step.")
    batch: int = Field(32, ge=1, description="Samples of an inner step.")
    pool: int = Field(400, ge=1, description="Sinusoids to meta-train on, drawn once.")
    image_size: int = Field(84, ge=8, description="Pixels of an image's sides.")
    validation_classes: int = Field(100, ge=1, description="Classes held out of the meta-training ones for choices.")

    labels: Literal["first", "any"] = Field(
        "first", description="Outputs that classes get in meta-training: 0 to tasks - 1, or any of the head's."
    )
    eval_learn: int = Field(15, ge=1, description="Images of a class to learn from in evaluations; the first are.")
    eval_test: int = Field(5, ge=1, description="Images of a class to test on in evaluations, those that follow.")

    front: Literal["none", "conv"] = Field("none", description="Frozen in a lifetime: convolutions, or nothing.")
    channels: int = Field(128, ge=1, description="Of each convolution.")
    strides: list[int] = Field([2, 1, 2, 1, 2, 2], min_length=1, description="Of the 3x3 convolutions.")
    hidden: list[int] = Field([300], description="Units of the linear layers before the last.")
    head: int = Field(1, ge=1, description="Outputs.")
    frozen: int = Field(0, ge=0, description="Linear layers from the front that keep their weights in a lifetime.")

    rule: Literal["oja", "hebb", "gradient"] = Field("oja", description="How plastic weights change.")
    signal: Literal["target", "error", "error_detached"] = Field("error", description="What feedback carries.")
    plastic: Literal["all", "output", "none"] = Field("all", description="Which layers change.")
    hidden_signal: Literal["feedback", "none"] = Field("feedback", description="What shifts hidden activity.")
    output: Literal["feedback", "signal", "none"] = Field("feedback", description="What shifts the output's.")
    linear_feedback: bool = Field(False, description="No rectifier after feedback layers.")
    absolute: bool = Field(False, description="The signal's absolute value through feedback.")
    gate: Literal["none", "relu", "sign"] = Field("none", description="Feedback times the rectifier's derivative.")
    multiplier: float = Field(1.0, allow_inf_nan=False, description="Factor on changes of all layers but the last.")
    reduction: Literal["sum", "mean"] = Field("sum", description="Over the samples of an inner step.")
    feedback_layers: int = Field(1, ge=1, description="Layers of each feedback path.")
    feedback_width: int = Field(128, ge=1, description="Units between them.")
    plasticity: Literal["synapse", "neuron", "layer", "network"] = Field("synapse", description="One rate for each.")
    init_plasticity: float = Field(0.0, allow_inf_nan=False, description="Plasticity before meta-training.")
    init_strength: float = Field(0.5, allow_inf_nan=False, description="Strength of feedback before meta-training.")
    start: Literal["learned", "zero", "random", "random_head"] = Field(
        "learned",
        description="Plastic weights at birth: meta-learned, zero, drawn anew, or the head's are.",
    )

    inner_lr: float = Field(0.01, allow_inf_nan=False, description="Step size of 'gradient'.")
    learned_rates: bool = Field(False, description="Meta-learn step sizes of 'gradient', from inner_lr on.")
    second_order: bool = Field(True, description="Exact meta-gradient of 'gradient'.")
    inner_clip: float | None = Field(None, gt=0, description="Largest entry of an inner gradient.")
    pretrain: bool = Field(False, description="No lifetimes in training: ordinary supervised learning.")

    meta_steps: int = Field(20_000, ge=0, description="Steps of Adam on the meta-parameters.")
    episodes: int = Field(1, ge=1, description="Lifetimes a meta-step.")
    lr_forward: float = Field(1e-4, ge=0, allow_inf_nan=False, description="Adam's rate of W and b.")
    lr_feedback: float = Field(1e-4, ge=0, allow_inf_nan=False, description="Adam's rate of B and c.")
    lr_plasticity: float = Field(1e-8, ge=0, allow_inf_nan=False, description="Adam's rate of plasticity.")
    lr_strength: float = Field(1e-4, ge=0, allow_inf_nan=False, description="Adam's rate of strengths.")
    decay_at: list[int] = Field([], description="Meta-steps at which lr_forward falls to 0.3 of itself.")
    vary_length: bool = Field(False, description="Lifetimes of a tenth to all of their steps.")
    batch_learning: bool = Field(False, description="All samples of a lifetime in one step.")
    checkpoint_segments: int = Field(1, ge=1, description="Parts of a lifetime computed again instead of kept.")
    bad_limit: int = Field(50, ge=1, description="Meta-gradients in a row that may be not finite.")

    eval_every: int = Field(500, ge=1, description="Meta-steps between evaluations on validation tasks.")
    eval_lifetimes: int = Field(20, ge=1, description="Lifetimes of these evaluations.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weights and episodes.")
    device: str = Field("auto", description="cpu, cuda; 'auto' takes what is there.")
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's choice.")
    log_every: int = Field(20, ge=1, description="Meta-steps between lines of the log.")
    checkpoint_every: int = Field(500, ge=1, description="Meta-steps between checkpoints.")
    keep: int = Field(2, ge=1, description="Checkpoints to keep, beside the best.")

    @property
    def is_images(self) -> bool:
        """Whether tasks are classes of images."""
        return self.task != "sinusoid"

    def local_rule(self) -> LocalRule:
        """What happens in a step of a lifetime."""
        fields = ("rule", "signal", "plastic", "output", "linear_feedback", "absolute", "gate", "multiplier")
        fields += ("reduction", "frozen", "inner_lr", "second_order", "inner_clip")  # type: ignore[assignment]
        return LocalRule(hidden=self.hidden_signal, **{name: getattr(self, name) for name in fields})


# What may differ when a run goes on: nothing that the weights or the log depend on. Meta-steps may only grow.
HARMLESS = frozenset({"meta_steps", "root", "download", "keep", "device", "threads"})


def resolve(given: dict[str, Any]) -> MetaConfig:
    """Check settings and fill in what goes with the task and the learner.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    kind = SINUSOID if given.get("task", "sinusoid") == "sinusoid" else IMAGES
    config = checked(MetaConfig, {**kind, **_of_learner(given), **given})
    _check(config)
    return config


def layered(recipe: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """A recipe under flags. What makes a learner that the flags name comes between the two: an ablation stays one.

    Raises:
        ConfigError: for a learner that is not known.
    """
    learner = _of_learner({**recipe, **flags}) if "learner" in flags else {}
    return {**recipe, **learner, **flags}


def _of_learner(given: dict[str, Any]) -> dict[str, Any]:
    name = str(given.get("learner", "flp"))
    if name not in LEARNERS:
        raise ConfigError(f"learner: expected one of {', '.join(LEARNERS)}, got {name!r}.{nearest(name, LEARNERS)}")
    learner = LEARNERS[name]
    if learner.get("start") == "random_head" and given.get("task", "sinusoid") == "sinusoid":
        return {**learner, "start": "learned"}  # the reference draws heads of classes only
    return learner


def _check(config: MetaConfig) -> None:
    """Fields fit together; raises ConfigError. Not a validator: flags alone lack what goes with task and learner."""
    images, linear = config.is_images, len(config.hidden) + 1
    wrong = [
        (images and not 2 <= config.tasks <= 1000, f"tasks: expected 2 to 1000 classes, got {config.tasks}"),
        (
            images and config.tasks > config.head,
            f"head: expected at least {config.tasks} outputs for as many classes, got {config.head}",
        ),
        (not images and config.head != 1, f"head: expected 1 output for sinusoids, got {config.head}"),
        (not images and config.front != "none", f"front: expected 'none' for sinusoids, got {config.front!r}"),
        (
            not images and config.tasks > config.pool,
            f"tasks: expected at most the {config.pool} sinusoids of the pool, got {config.tasks}",
        ),
        (config.frozen > linear, f"frozen: expected at most the {linear} linear layers, got {config.frozen}"),
        (min(config.hidden, default=1) < 1, f"hidden: expected numbers of units, got {config.hidden}"),
        (min(config.strides) < 1, f"strides: expected 1 or more, got {config.strides}"),
    ]
    if found := [message for is_wrong, message in wrong if is_wrong]:
        raise ConfigError("\n".join(found))


def differences(old: MetaConfig, new: MetaConfig) -> list[str]:
    """What keeps a run of ``old`` from going on as ``new``: one line a field; empty if nothing does."""
    lines = []
    for name in MetaConfig.model_fields:
        was, now = getattr(old, name), getattr(new, name)
        if was != now and (name not in HARMLESS or (name == "meta_steps" and now < was)):
            lines.append(f"{name}: the run has {was!r}, now {now!r}")
    return lines
