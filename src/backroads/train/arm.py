"""One training as an arm of a run: a model under a rule, its optimisers, and what is recorded of it."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.data import Dataset, load_dataset
from backroads.errors import ConfigError
from backroads.feedback.conversion import aligned_layers, convert
from backroads.feedback.rules import FeedbackRule, get_rule
from backroads.metrics import readings, weight_angles
from backroads.models import build_model
from backroads.phases import mirror
from backroads.runs import schema
from backroads.runs.arm import Arm, DivergedError
from backroads.runs.runtime import Runtime
from backroads.train.runtime import layout, prepare
from backroads.train.settings import TrainConfig
from backroads.train.step import Step, Stepper, evaluate, first_bad, weights_finite

COLLAPSED = 85.0  # degrees between W and B at the end, for a rule that should have brought them together
PROBE_EXAMPLES = 128  # to take readings on
WARM_UP_STEPS = 10  # of a run, left out of the times of steps


def rules_of(config: TrainConfig) -> FeedbackRule | dict[str, FeedbackRule]:
    """The rule, or the rules by pattern; raises RuleError."""
    rule = get_rule(config.rule, **config.rule_options)
    return {**{pattern: get_rule(name) for pattern, name in config.rules.items()}, "*": rule} if config.rules else rule


def mirror_rule(config: TrainConfig) -> FeedbackRule | None:
    """What teaches B in the phases before epochs; None without any. Raises RuleError."""
    if not config.mirror_steps:
        return None
    return get_rule("normalised_mirror", **config.mirror_options)


def make_model(config: TrainConfig, dataset: Dataset) -> torch.nn.Module:
    """The converted model of a run, on the CPU: the same W for every rule."""
    torch.manual_seed(config.seed)
    model = build_model(config.model, classes=dataset.classes, shape=dataset.shape, options=config.model_options)
    return convert(model, rules_of(config), strict=config.strict, generator=config.seed + 1)


def dataset_of(config: TrainConfig, device: torch.device) -> Dataset:
    """The data of a run; raises ConfigError for what is missing or wrong."""
    return load_dataset(
        config.data,
        split=config.split,
        root=config.root,
        download=config.download,
        image_size=config.image_size,
        augment=config.augment,
        device=device,
        workers=config.workers,
        corrupt_limit=config.corrupt_limit,
    )


class Batches:
    """The batches of a run, each made once for all arms of the same seed.

    Args:
        data: its training split is used. config: batch size. runtime: this process gets its part of each batch.

    Attributes:
        steps_per_epoch: whole batches in an epoch.

    Raises:
        ConfigError: for a batch that the data or the processes cannot fill.
    """

    def __init__(self, data: Dataset, config: TrainConfig, runtime: Runtime) -> None:
        self.data, self.batch_size, self.runtime = data, config.batch_size, runtime
        parts = runtime.world * config.accumulate
        if config.batch_size % parts:
            raise ConfigError(
                f"batch_size: expected a multiple of {parts} ({runtime.world} processes, accumulate "
                f"{config.accumulate}), got {config.batch_size}; the next is {-(-config.batch_size // parts) * parts}"
            )
        self.steps_per_epoch = len(data.train) // config.batch_size
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"batch_size: expected at most {len(data.train)}, the images of the training split, "
                f"got {config.batch_size}"
            )
        self._iterators: dict[int, Any] = {}
        self._present: dict[int, tuple[int, tuple[Tensor, Tensor]]] = {}
        self._probe: tuple[Tensor, Tensor] | None = None

    def probe(self) -> tuple[Tensor, Tensor]:
        """A few training examples to take readings on, the same in every run on these data."""
        if self._probe is None:
            n = min(PROBE_EXAMPLES, len(self.data.train))
            self._probe = next(self.data.train.train_batches(n, seed=0, epoch=0))
        return self._probe

    def at(self, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Images and labels of a step, this process's part."""
        last = self._present[seed][0] if seed in self._present else None
        if last != step:
            epoch, start = divmod(step, self.steps_per_epoch)
            if last != step - 1 or start == 0:
                self._iterators[seed] = self.data.train.train_batches(
                    self.batch_size,
                    seed=seed,
                    epoch=epoch + 1,
                    start_step=start,
                    rank=self.runtime.rank,
                    world=self.runtime.world,
                )
            self._present[seed] = (step, next(self._iterators[seed]))
        return self._present[seed][1]


class Sums:
    """Loss, right answers and examples of this process's part of the training, since an evaluation and a log line.

    They stay on the device until they are asked for. They are saved as they are, one row for each process: added up
    at another moment, their last bit would be another.
    """

    def __init__(self, device: torch.device) -> None:
        self._epoch = torch.zeros(3, dtype=torch.float64, device=device)
        self._line = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, done: Step) -> None:
        """Count a step in."""
        step = torch.stack([done.loss * done.n, done.hits.double(), torch.full_like(done.loss, done.n)])
        self._epoch += step
        self._line += step

    def take(self, which: str) -> list[float]:
        """[loss, right answers, examples] since the "epoch" or the "line" began, which begins anew."""
        sums = self._epoch if which == "epoch" else self._line
        values: list[float] = sums.tolist()
        sums.zero_()
        return values

    def state(self) -> list[float]:
        """All six numbers."""
        return [*self._epoch.tolist(), *self._line.tolist()]

    def load(self, rows: list[list[float]], rank: int, world: int) -> None:
        """The inverse of :meth:`state`, from the rows of all processes; of another number of processes, their sum."""
        if len(rows) != world:
            rows = [[sum(column) for column in zip(*rows, strict=True)], *([[0.0] * 6] * (world - 1))]
        self._epoch.copy_(torch.tensor(rows[rank][:3], dtype=torch.float64))
        self._line.copy_(torch.tensor(rows[rank][3:], dtype=torch.float64))


class TrainingArm(Arm):
    """A training under one rule.

    Args:
        name: of the rule, for tables. config: the settings. batches: of the run. runtime: this process among its peers.
        timed: whether to measure each step's time exactly, for comparisons.

    Raises:
        ConfigError, RuleError, ConversionError: for what is wrong, before anything is trained.
    """

    def __init__(
        self, name: str, config: TrainConfig, batches: Batches, runtime: Runtime, *, timed: bool = False
    ) -> None:
        self.name, self.config, self.batches, self.runtime, self.timed = name, config, batches, runtime, timed
        self.data, self.steps_per_epoch = batches.data, batches.steps_per_epoch
        self.model = prepare(make_model(config, self.data), config, runtime)
        self._phase = mirror_rule(config)
        if self._phase is not None:
            mirror(self.model, 0, self._phase)  # no step: says what is wrong, if anything is
        self.stepper = Stepper(self.model, config, runtime, self.steps_per_epoch)
        self.seconds: list[float] = []
        self.evaluation: schema.Evaluation | None = None
        self._best, self._best_epoch, self._dead = -1.0, 0, list[str]()
        self._sums = Sums(runtime.device)
        self._last: Step

    def about(self) -> schema.Arm:
        """What the first event says of this arm."""
        formulas = {name: repr(layer.rule) for name, layer in aligned_layers(self.model)}
        return schema.Arm(self.name, self.config.seed, formulas)

    # -- what the loop asks for -----------------------------------------------------------------------------------

    def _mirror(self, step: int) -> None:
        """The mirror phase before an epoch, if there is one: a function of (seed, epoch), alike in every process."""
        epoch, start = divmod(step, self.steps_per_epoch)
        if self._phase is not None and start == 0:
            mirror(self.model, self.config.mirror_steps, self._phase, seed=self.config.seed * 1_000_003 + epoch)
            layers = aligned_layers(self.model)
            self.runtime.share(B for _, layer in layers if (B := layer.backward_weight) is not None)

    def step(self, step: int) -> None:
        """Forward, backward and update on the batch of this step; before an epoch, the mirror phase."""
        self._mirror(step)
        x, y = self.batches.at(self.config.seed, step)
        if self.timed:
            self.runtime.synchronize()
        began = time.perf_counter()
        done = self.stepper.forward_backward(step, x, y)
        if self.runtime.any(not math.isfinite(float(done.loss))):
            bad = first_bad(self.model, x)
            raise DivergedError(f"the loss of step {step} is not finite; first: {bad}", bad)
        self.stepper.update(step, done)
        if self.timed:
            self.runtime.synchronize()
        self.seconds.append(time.perf_counter() - began)
        self._last = done
        self._sums.add(done)

    def log(self, step: int) -> None:
        """The mean loss and accuracy since the last line, and the rates."""
        last = self._last
        loss, hits, n = self.runtime.sum(*self._sums.take("line"))
        self.record(
            schema.Step(
                step,
                epoch=step / self.steps_per_epoch,
                loss=loss / n,
                accuracy=hits / n,
                learning_rate=last.learning_rate,
                backward_rate=last.backward_rate,
                gradient_norm=last.gradient_norm,
                coefficients=dict(last.coefficients),
            )
        )

    def read(self, step: int) -> None:
        """All default metrics, on the same few training examples every time."""
        self.record(schema.Readings(step, self._readings(), epoch=step / self.steps_per_epoch))

    def _readings(self) -> dict[str, schema.ByLayer]:
        x, y = self.batches.probe()

        def loss() -> Tensor:
            output: Tensor = self.model(layout(x, self.config))
            return F.cross_entropy(output.float(), y)

        return {name: dict(values) for name, values in readings(self.model, loss).items()}

    def evaluate(self, step: int) -> None:
        """Loss and accuracy on the evaluation split."""
        loss, hits, n = self.runtime.sum(*self._sums.take("epoch"))
        with self.stepper.evaluated() as model:
            self.runtime.share(model.buffers())  # of batch norms: those that are saved are those that are evaluated
            measured = evaluate(model, self.data.evaluate, self.config, self.runtime)
        epoch = -(-step // self.steps_per_epoch)
        self.score = measured["eval_accuracy"]
        self._dead = dead(self.model)
        if epoch and self.score > self._best:
            self._best, self._best_epoch = self.score, epoch
        self.evaluation = schema.Evaluation(
            step,
            epoch,
            train_loss=loss / n if n else None,
            train_accuracy=hits / n if n else None,
            eval_loss=measured["eval_loss"],
            eval_accuracy=measured["eval_accuracy"],
            eval_top5=measured["eval_top5"],
        )
        self.record(self.evaluation)
        if not math.isfinite(measured["eval_loss"]):
            bad = weights_finite(self.model) or "the loss"
            raise DivergedError(f"the loss of the evaluation after step {step} is not finite; first: {bad}", bad)

    def check(self, step: int) -> None:
        """Weights that are not finite are never saved."""
        if (bad := weights_finite(self.model)) is not None:
            raise DivergedError(f"{bad} is not finite after step {step}", bad)

    def weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def state(self) -> dict[str, Any]:
        return {
            "optimizers": self.stepper.optimizers.state(),
            "ema": self.stepper.ema,
            "sums": self.runtime.gathered(self._sums.state()),
            "evaluation": None if self.evaluation is None else schema.as_data(self.evaluation),
            "best": [self._best, self._best_epoch],
            "dead": self._dead,
        }

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.model.load_state_dict(weights)
        self.stepper.optimizers.load(state["optimizers"])
        if self.stepper.ema is not None:
            self.stepper.ema = {key: value.to(self.runtime.device) for key, value in state["ema"].items()}
        self._sums.load(state["sums"], self.runtime.rank, self.runtime.world)
        if state["evaluation"] is not None:
            self.evaluation = schema.Evaluation(**state["evaluation"])
            self.score = self.evaluation.eval_accuracy
        self._best, self._best_epoch = state["best"]
        self._dead = list(state["dead"])

    def speed(self, step: int, steps: int, seconds: float) -> schema.Speed:
        """The run's speed, its memory, and what could not be read of the data."""
        return schema.Speed(
            step,
            examples_per_second=steps * self.config.batch_size / seconds,
            step_ms=1000 * seconds / steps,
            memory_mb=self.runtime.memory_mb(),
            corrupt_examples=len(self.data.train.corrupt),
        )

    # -- the end --------------------------------------------------------------------------------------------------

    def result(self, step: int, failed: schema.Diverged | None, baseline: TrainingArm | None) -> schema.ArmResult:
        """How the arm ended after ``step`` steps.

        Args:
            failed: why it ended early. baseline: arm whose steps' times are the unit of this one's.
        """
        found = schema.ArmResult(
            self.name,
            self.config.seed,
            "finished" if failed is None else "diverged",
            step,
            step / self.steps_per_epoch,
            best_accuracy=self._best if self._best_epoch else None,
            best_epoch=self._best_epoch or None,
            dead=tuple(self._dead),
            step_ms=1000 * statistics.median(self.seconds[WARM_UP_STEPS:]) if self.seconds[WARM_UP_STEPS:] else None,
            step_ratio=None if baseline is None else _quartiles(self.seconds, baseline.seconds),
        )
        if failed is not None:
            epochs = failed.step / self.steps_per_epoch
            reason, layer = failed.reason, failed.layer
            return dataclasses.replace(found, step=failed.step, epochs=epochs, reason=reason, layer=layer)
        assert self.evaluation is not None
        return dataclasses.replace(
            found,
            accuracy=self.evaluation.eval_accuracy,
            loss=self.evaluation.eval_loss,
            readings=self._readings(),
            collapsed=tuple(collapsed(self.model, weight_angles(self.model))),
        )


def _quartiles(own: list[float], units: list[float]) -> tuple[float, float, float] | None:
    """Lower quartile, median and upper quartile of the times of steps as multiples of another arm's."""
    ratios = [a / b for a, b in list(zip(own, units, strict=False))[WARM_UP_STEPS:]]
    if len(ratios) < 2:
        return None
    low, middle, high = statistics.quantiles(ratios, n=4)
    return low, middle, high


def collapsed(model: torch.nn.Module, angles: dict[str, float]) -> list[str]:
    """Layers whose B should have come to W and stands at a right angle (from 85 degrees) to it."""
    learns = {name for name, layer in aligned_layers(model) if layer.rule.aligns}
    return [name for name, degrees in angles.items() if name in learns and not degrees < COLLAPSED]


def dead(model: torch.nn.Module) -> list[str]:
    """Layers whose W got a gradient of zeros in the last step."""
    return [
        name
        for name, layer in aligned_layers(model)
        if layer.parameter.grad is not None and not bool(layer.part(layer.parameter.grad).any())
    ]
