"""Settings of ``backroads train``: one schema for flags, TOML and code. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from backroads.runs.groups import Group, groups, merged
from backroads.runs.settings import checked, parse

OptimizerName = Literal["sgd", "adam", "adamw", "radam", "rmsprop", "adagrad"]
ScheduleName = Literal["cosine", "linear", "steps", "triangle", "constant"]


def parsed(options: dict[str, Any]) -> dict[str, Any]:
    """Options whose values may be a flag's text."""
    return {name: parse(value) for name, value in options.items() if value is not None}  # TOML has no None


class Data(Group):
    """Data"""

    flags: ClassVar[dict[str, str]] = {"name": "data"}

    name: str = "digits"
    """What to train on: digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, imagenet, folder:PATH with images in
    train/CLASS and test/CLASS, npz:PATH, or package.module:callable."""
    root: str | None = None
    """Folder in which the data set lies, or into which it is downloaded; folder: and npz: paths start there, too."""
    download: bool = False
    """Download the data set if it is not in the folder that --root names."""
    split: Literal["both", "test", "validation"] = "both"
    """What to evaluate on: 'both', after every epoch on a validation part of the training split, which is left out of
    training, and once, at the end, on the test split. 'validation' does not read the test split, to choose settings;
    'test' trains on the whole training split and has the test at the end alone."""
    image_size: Annotated[int | None, Field(ge=1)] = None
    """Resize images to squares of so many pixels; by default they keep their size (imagenet: 224)."""
    augment: Literal["default", "none", "crop_flip", "random_resized", "translate_alternate"] = "default"
    """How training images are varied: random crops and flips, randomly resized parts, moved by at most 2 pixels with a
    reflected border and mirrored in every second epoch, or not at all. The default is what is usual for the data
    set."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that read and decode image files; raise it if the GPU waits for images. Data sets that fit in memory
    need none."""
    corrupt_limit: Annotated[int, Field(ge=0)] = 0
    """How many unreadable image files may be skipped before the run stops with an error."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Use at most so many training and evaluation examples, for a quick trial run."""
    last_batch: bool = False
    """Train on the last, smaller batch of each epoch as well, instead of leaving its examples out of that epoch."""


class Model(Group):
    """Model"""

    flags: ClassVar[dict[str, str]] = {"name": "model", "options": "model_options"}

    name: str = "digits_conv"
    """The network: one of the package's names, such as resnet20, or torchvision:NAME, timm:NAME, or
    package.module:callable."""
    options: dict[str, Any] = Field(default={})
    """Options of the network by name, as in --model-options.width 16."""

    _parse = field_validator("options")(parsed)


class Method(Group):
    """Method"""

    flags: ClassVar[dict[str, str]] = {"name": "method", "options": "method_options"}

    name: str = "feedback"
    """How credit is assigned: 'feedback' trains through backward weights that a feedback rule teaches; others, such as
    'local_errors', are methods without backward weights. A name or package.module:callable."""
    options: dict[str, Any] = Field(default={})
    """Options of the method by name, as in --method-options.loss sim."""

    _parse = field_validator("options")(parsed)


class Rule(Group):
    """Feedback rule"""

    flags: ClassVar[dict[str, str]] = {"name": "rule", "options": "rule_options", "layers": "layer_rules"}

    name: str = "symmetric_alignment"
    """What teaches the backward weights B, for the method 'feedback': a rule's name or package.module:callable."""
    options: dict[str, Any] = Field(default={})
    """Options of the rule by name, as in --rule-options.self 0.1."""
    layers: dict[str, str] = Field(default={})
    """Other rules for some layers, by a pattern of the layers' names, as in --layer-rules.fc backprop."""
    strict: bool = False
    """Refuse a model in which some module would still send errors back through its own forward weights."""

    _parse = field_validator("options")(parsed)


class Optimizer(Group):
    """Optimiser of the forward weights"""

    flags: ClassVar[dict[str, str]] = {"name": "optimizer"}

    name: OptimizerName = "sgd"
    """Optimiser of the forward weights W."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """Learning rate of W at its highest."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of W: Nesterov's for sgd, beta1 for Adam and its kin."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    """Weight decay of W: how strongly weights are pulled to zero."""
    decay_vectors: bool = False
    """Let weight decay act on biases and the parameters of normalisation as well."""
    norm_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Learning rate of the parameters of normalisation, as a multiple of that of the other weights; their weight decay
    is divided by it, so that they shrink no faster."""
    freeze_after: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default={})
    """Epochs after which parameters stop learning, by a pattern of their names, as in --freeze-after.0.bias 3."""
    clip_norm: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """Scale the gradient of W down if its norm is above this; helps if training diverges."""
    update_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Add noise to the weights after each step, of this standard deviation times the learning rate: a model of
    imprecise hardware."""
    update_noise_distribution: Literal["normal", "uniform"] = "normal"
    """Distribution of the update noise."""
    update_noise_on: Literal["all", "forward", "backward"] = "all"
    """Which weights get the update noise: all, the forward weights W, or the backward weights B."""
    update_noise_rate: Literal["own", "forward"] = "own"
    """Learning rate that multiplies the update noise: each weight's own, as published, or that of W for all."""


class Schedule(Group):
    """Schedules"""

    flags: ClassVar[dict[str, str]] = {"name": "schedule"}

    name: ScheduleName = "cosine"
    """How the learning rate falls over the training: to zero along a cosine or a line, in steps, or not at all;
    'triangle' is a line up from a fifth of it to the peak, and one down."""
    warmup_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Epochs at the start in which the learning rate of W grows linearly from 0; fractions are allowed."""
    drop_epochs: list[float] = Field(default=[30, 60, 80])
    """Epochs at which the rates drop, for the schedule 'steps'."""
    drop_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What the rates are multiplied by at each drop, for the schedule 'steps'."""
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.23
    """Where the rate of W is highest, as a part of the training, for the schedule 'triangle'."""
    last_factor: Annotated[float, Field(ge=0, le=1)] = 0.07
    """What the rates are multiplied by at the end, for the schedule 'triangle'."""
    coefficients: dict[str, dict[str, Any]] = Field(default={})
    """Schedules of the rule's coefficients, as in --coefficients.amp.stop 0.5 to switch amp off after half of the
    training."""

    @field_validator("coefficients")
    @classmethod
    def _parse(cls, schedules: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: parsed(fields) for name, fields in schedules.items()}

    @field_validator("drop_epochs")
    @classmethod
    def _growing(cls, epochs: list[float]) -> list[float]:
        if sorted(epochs) != list(epochs) or not all(0 <= epoch < float("inf") for epoch in epochs):
            raise ValueError("epochs in increasing order, from 0 and finite")
        return epochs


class Backward(Group):
    """Learning of the backward weights"""

    flags: ClassVar[dict[str, str]] = {
        name: f"backward_{name}" for name in ("optimizer", "rate", "momentum", "schedule")
    }

    optimizer: OptimizerName | Literal["auto"] = "auto"
    """Optimiser of the backward weights B; 'auto' takes that of W for rules such as Kolen-Pollack, which need it, and
    sgd for the others."""
    rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["forward"] = 1.0
    """Learning rate of B at its highest, unless B follows the settings of W; 'forward' is that of W."""
    momentum: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Momentum of B, unless B follows the settings of W; by default what suits the rule: 0.7 for activation
    alignment, W's for symmetric alignment, 0.5 for exact probing and the error-correcting mirror, else 0."""
    schedule: ScheduleName | Literal["same"] = "same"
    """How the rate of B falls; 'same' is as for W, but without warm-up or rise."""
    delay_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Epochs at the start in which only B learns."""
    alternate_step_freq: Annotated[int | None, Field(ge=1)] = None
    """Train W and B in turns: so many steps of W for each step of B. By default both learn in every step."""
    mirror_rows: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Rows of white noise for each input of a neuron in a mirror phase, which brings B to W; 131 give 5 degrees, 0 is
    no such phase."""
    mirror_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of a mirror phase under the rule exact_probing, in place of mirror_rows."""
    mirror_options: dict[str, Any] = Field(default={})
    """Options of that rule, as in --mirror-options.rate 0.1."""
    mirror_every: Annotated[int | None, Field(ge=0)] = None
    """Epochs from one mirror phase to the next; 0 is one phase alone, before training. By default 0 with mirror_rows,
    and 1 with mirror_steps."""

    _parse = field_validator("mirror_options")(parsed)


class Hardware(Group):
    """Hardware that holds the weights"""

    flags: ClassVar[dict[str, str]] = {"forward": "hardware_forward", "backward": "hardware_backward"}

    forward: dict[str, Any] = Field(default={})
    """Errors of the devices that hold the forward weights, by name, as in --hardware-forward.bits 6: bits, update_bits,
    read_noise, asymmetry, drift, drift_to, stuck."""
    backward: dict[str, Any] = Field(default={})
    """The same for the backward weights B, as in --hardware-backward.read_noise 0.05."""

    _parse = field_validator("forward", "backward")(parsed)


class Run(Group):
    """Run"""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Passes through the training split."""
    max_steps: Annotated[int | None, Field(ge=1)] = None
    """Stop after so many steps, wherever the schedules are then; for a quick trial run."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Examples in a step, over all processes together."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Split each batch into so many parts that are computed one after the other, to save memory."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight of the uniform distribution in the targets; 0 for plain labels."""
    ema: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Evaluate a running mean of the weights with this decay, such as 0.999, instead of the weights."""
    lookahead: Annotated[int | None, Field(ge=1)] = None
    """From the fourth epoch on, set all weights back to a running mean of themselves every so many steps."""
    six_views: bool = False
    """Give the evaluation at the end the mean output over six views of each image: moved by a pixel, and mirrored."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial weights, the order of the data, augmentation and noise."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, mps; 'auto' takes a GPU if there is one."""
    threads: Annotated[int | None, Field(ge=1, le=1024)] = None
    """CPU threads; by default torch's choice. One is fastest for very small networks."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the computation; bf16 is faster on recent GPUs, weights stay in fp32."""
    channels_last: bool = False
    """Keep images in the memory layout that is fastest for convolutions on recent GPUs."""
    compile: bool = False
    """Compile the model with torch.compile: slower to start, then faster."""
    deterministic: bool = False
    """Use deterministic algorithms only, so that a GPU repeats every bit; slower."""
    sync_batch_norm: bool = False
    """Compute the statistics of batch normalisation over all processes."""
    log_every: Annotated[int, Field(ge=1)] = 50
    """Steps between two lines of the log with loss, accuracy and rates."""
    readings_every: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Epochs between two readings of the metrics, such as the angle between W and B."""
    checkpoint_every: Annotated[int | None, Field(ge=1)] = None
    """Steps between two checkpoints, beside those that are written after each epoch."""
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints to keep; the best one is kept as well."""
    log: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default_factory=list)
    """Send the numbers of the log to TensorBoard, Weights & Biases or MLflow as well."""


class TrainSettings(Group):
    """Settings of a training, in groups."""

    data: Data = Data()
    model: Model = Model()
    method: Method = Method()
    rule: Rule = Rule()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    backward: Backward = Backward()
    hardware: Hardware = Hardware()
    run: Run = Run()

    @model_validator(mode="after")
    def _fit_together(self) -> TrainSettings:
        for name in groups(type(self)):  # commands that train much set some things themselves
            group: Group = getattr(self, name)
            for field, why in group.without_flag.items():
                if field in group.model_fields_set:
                    raise ValueError(f"{name}.{field}: expected nothing, {why}; leave it out")
        run = self.run
        if run.batch_size % run.accumulate:
            raise ValueError(f"accumulate: expected a divisor of batch_size {run.batch_size}, got {run.accumulate}")
        if self.method.name != "feedback" and self.rule != Rule():
            raise ValueError(
                f"rule: expected no feedback rule for the method {self.method.name!r}, which has none; leave it out"
            )
        if self.backward.delay_epochs >= run.epochs:
            raise ValueError(
                f"delay_epochs: expected less than the {run.epochs} epochs, after which W would not have learned, "
                f"got {self.backward.delay_epochs:g}"
            )
        if self.schedule.coefficients and self.rule.layers:
            raise ValueError("coefficients: expected one rule for all layers, got rules for some layers too")
        return self

    def steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole training."""
        steps = self.run.epochs * steps_per_epoch
        return steps if self.run.max_steps is None else min(steps, self.run.max_steps)

    def shared(self) -> dict[str, Any]:
        """The settings of a training, as plain data; a command that trains much adds its own to them."""
        return {name: getattr(self, name).model_dump() for name in groups(TrainSettings)}


# What may differ when a run goes on: nothing that the weights or the log depend on.
GROWING = frozenset({"epochs", "max_steps"})
HARMLESS = frozenset({"workers", "root", "download", "keep", "log", "corrupt_limit"})


def resolve(*layers: dict[str, Any]) -> TrainSettings:
    """Check settings and fill in defaults.

    Args:
        layers: settings in tables, as in TOML, or by the names of their flags; later ones go over earlier ones.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    return checked(TrainSettings, merged(TrainSettings, *layers))
