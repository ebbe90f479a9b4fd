"""Settings of ``backroads train``: one schema for flags, TOML and code. Imports no torch, for a quick ``--help``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backroads.runs.settings import checked, parse

OptimizerName = Literal["sgd", "adam", "adamw", "radam", "rmsprop", "adagrad"]
ScheduleName = Literal["cosine", "linear", "steps", "constant"]


class TrainConfig(BaseModel):
    """Settings of ``backroads train``. Epochs may be fractions where a time is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    data: str = Field(
        "digits",
        description="digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, imagenet, folder:PATH or npz:PATH.",
    )
    root: str | None = Field(None, description="Folder of the data set, for those that torchvision knows.")
    download: bool = Field(False, description="Fetch the data set if it is not there.")
    split: Literal["test", "validation"] = Field(
        "test", description="What to evaluate on; choices are made on 'validation', a part of the training split."
    )
    image_size: int | None = Field(None, ge=1, description="Pixels; None keeps the data set's own.")
    augment: Literal["default", "none", "crop_flip", "random_resized"] = Field(
        "default", description="How training images are varied; 'default' is usual for the data set."
    )
    workers: int = Field(0, ge=0, description="Processes that decode images of folders too large for memory.")
    corrupt_limit: int = Field(0, ge=0, description="Unreadable images to skip before the run stops.")

    model: str = Field(
        "digits_conv", description="A model's name, torchvision:NAME, timm:NAME or package.module:callable."
    )
    model_options: dict[str, Any] = Field({}, description="Options of the model by name.")
    rule: str = Field("symmetric_alignment", description="What teaches the backward weights.")
    rule_options: dict[str, Any] = Field({}, description="Options of the rule by name, as in rule_options.self_ = 0.1.")
    rules: dict[str, str] = Field(
        {}, description="Rules of some layers by pattern, as in rules = {fc = 'backprop'}; the rule teaches the rest."
    )
    strict: bool = Field(False, description="Refuse a model with a module that keeps transporting weights.")

    epochs: int = Field(10, ge=1, le=1_000_000, description="Passes through the training split.")
    batch_size: int = Field(128, ge=2, description="Examples a step, over all processes together.")
    accumulate: int = Field(1, ge=1, description="Forward and backward passes that a step is made of.")
    optimizer: OptimizerName = Field("sgd", description="Optimiser of W.")
    learning_rate: float = Field(0.1, gt=0, allow_inf_nan=False, description="Rate of W.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of W (Nesterov; beta1 of Adam's kind).")
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False, description="Decay of W.")
    decay_vectors: bool = Field(False, description="Let weight decay act on biases and norms too.")
    schedule: ScheduleName = Field("cosine", description="How the rates fall.")
    warmup_epochs: float = Field(0.0, ge=0, allow_inf_nan=False, description="Linear growth of W's rate from 0.")
    drop_epochs: list[float] = Field([30, 60, 80], description="When the rates drop, with schedule 'steps'.")
    drop_factor: float = Field(0.1, gt=0, le=1, description="By how much they drop.")
    backward_optimizer: OptimizerName | Literal["auto"] = Field(
        "auto",
        description="Optimiser of B; 'auto' is W's own for Kolen-Pollack, which needs that, and sgd for the others.",
    )
    backward_rate: float = Field(1.0, ge=0, allow_inf_nan=False, description="Rate of B, unless it is W's own.")
    backward_momentum: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Momentum of B (Nesterov), unless it is W's own; None: 0.7 for rules with a sparse term, W's for "
        "those of decay (at most 1) and self alone, else 0.",
    )
    backward_schedule: ScheduleName | Literal["same"] = Field(
        "same", description="How B's rate falls; 'same' is as W's. B's rate does not warm up, unless it is W's own."
    )
    delay_epochs: float = Field(0.0, ge=0, allow_inf_nan=False, description="Epochs at the start that train B only.")
    alternate_step_freq: int | None = Field(
        None, ge=1, description="Steps of W for each step of B, in turns; None takes both in every step."
    )
    coefficients: dict[str, dict[str, Any]] = Field(
        {},
        description="Schedules of the rule's coefficients, as in coefficients.amp = {stop = 0.5}.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Weight of the uniform distribution in the targets.")
    clip_norm: float | None = Field(None, gt=0, allow_inf_nan=False, description="Largest norm of W's gradient.")
    update_noise: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Noise of this std, times the rate, on the weights after each step."
    )
    update_noise_distribution: Literal["normal", "uniform"] = Field("normal", description="Its distribution.")
    update_noise_on: Literal["all", "forward", "backward"] = Field(
        "all", description="Whether it is on all weights, on W, or on B."
    )
    mirror_steps: int = Field(
        0, ge=0, description="Steps of a mirror phase before each epoch: noise drives each layer, and only B learns."
    )
    mirror_options: dict[str, Any] = Field(
        {}, description="Options of the phase's rule, normalised_mirror, as in mirror_options.rate = 0.1."
    )
    ema: float | None = Field(None, gt=0, lt=1, description="Evaluate a running mean of the weights, of this decay.")

    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weights, order, augmentation and noise.")
    device: str = Field("auto", description="cpu, cuda, mps; 'auto' takes what is there.")
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's choice.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16 computes under autocast.")
    channels_last: bool = Field(False, description="Memory layout of convolutions.")
    compile: bool = Field(False, description="torch.compile the model.")
    deterministic: bool = Field(False, description="Only deterministic algorithms, slower on GPUs.")
    sync_batch_norm: bool = Field(False, description="Batch statistics over all processes.")

    log_every: int = Field(50, ge=1, description="Steps between lines of loss and accuracy.")
    angles_every: float = Field(1.0, gt=0, description="Epochs between measurements of angles.")
    checkpoint_every: int | None = Field(None, ge=1, description="Steps between checkpoints; None: at ends of epochs.")
    keep: int = Field(2, ge=1, description="Checkpoints to keep, beside the best.")
    tensorboard: bool = Field(False, description="Write TensorBoard's files too.")

    @field_validator("rule_options", "model_options", "mirror_options")
    @classmethod
    def _parsed(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {name: parse(value) for name, value in options.items() if value is not None}  # TOML has no None

    @field_validator("coefficients")
    @classmethod
    def _parsed_schedules(cls, schedules: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: {key: parse(value) for key, value in fields.items()} for name, fields in schedules.items()}

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: expected a divisor of batch_size {self.batch_size}, got {self.accumulate}")
        if sorted(self.drop_epochs) != list(self.drop_epochs):
            raise ValueError(f"drop_epochs: expected growing epochs, got {self.drop_epochs}")
        if self.coefficients and self.rules:
            raise ValueError("coefficients: expected one rule for all layers, got rules by pattern too")
        return self


# What may differ when a run goes on: nothing that the weights or the log depend on.
GROWING = frozenset({"epochs"})
HARMLESS = frozenset({"workers", "root", "download", "keep", "tensorboard", "corrupt_limit"})


def resolve(data: dict[str, Any]) -> TrainConfig:
    """Check settings and fill in defaults.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    return checked(TrainConfig, data)
