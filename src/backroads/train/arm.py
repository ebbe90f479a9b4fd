"""One training as an arm of a run: a model under a rule, its optimisers, and what is recorded of it."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.errors import ConversionError, DivergedError
from backroads.feedback.conversion import aligned_layers
from backroads.methods.base import Method
from backroads.metrics import check_norms, readings, weight_angles
from backroads.runs import schema
from backroads.runs.arm import Arm
from backroads.runs.runtime import Runtime
from backroads.train.build import Batches, hardware_of, make_model, method_of, phase_of
from backroads.train.fields import first_layer
from backroads.train.runtime import layout, prepare
from backroads.train.settings import TrainSettings
from backroads.train.step import Step, Stepper, evaluate, first_bad, of_six_views, weights_finite

COLLAPSED = 85.0  # degrees between W and B at the end, for a rule that should have brought them together
WARM_UP_STEPS = 10  # of a run, left out of the times of steps


class Sums:
    """Loss, right answers and examples of this process's part of the training, since an evaluation and a log line.

    They stay on the device until they are asked for. They are saved as they are, one row for each process: added up
    at another moment, their last bit would be another.
    """

    def __init__(self, device: torch.device) -> None:
        self._both = torch.zeros(2, 3, dtype=torch.float64, device=device)

    def add(self, done: Step) -> None:
        """Count a step in."""
        self._both += torch.stack([done.loss * done.n, done.hits.double(), torch.full_like(done.loss, done.n)])

    def take(self, which: str) -> list[float]:
        """[loss, right answers, examples] since the "epoch" or the "line" began, which begins anew."""
        sums = self._both[0 if which == "epoch" else 1]
        values: list[float] = sums.tolist()
        sums.zero_()
        return values

    def state(self) -> list[float]:
        """All six numbers."""
        values: list[float] = self._both.flatten().tolist()
        return values

    def load(self, rows: list[list[float]], rank: int, world: int) -> None:
        """The inverse of :meth:`state`, from the rows of all processes; of another number of processes, their sum."""
        if len(rows) != world:
            rows = [[sum(column) for column in zip(*rows, strict=True)], *([[0.0] * 6] * (world - 1))]
        self._both.copy_(torch.tensor(rows[rank], dtype=torch.float64).view(2, 3))


class TrainingArm(Arm):
    """A training by one method, for feedback rules under one rule.

    Args:
        name: of the rule or method, for tables.
        config: the settings.
        batches: of the run.
        runtime: this process among its peers.
        compared: whether this is one of several arms: steps are then timed exactly, and the mirror phase is left out
            where no layer could learn in it.

    Raises:
        ConfigError, RuleError, ConversionError: for what is wrong, before anything is trained.
    """

    def __init__(
        self, name: str, config: TrainSettings, batches: Batches, runtime: Runtime, *, compared: bool = False
    ) -> None:
        self.name, self.config, self.batches, self.runtime = name, config, batches, runtime
        self.compared = compared
        self.data, self.steps_per_epoch = batches.data, batches.steps_per_epoch
        self.method = method_of(config)
        self.model = prepare(make_model(config, self.data, self.method), config, runtime)
        self._phase, self._phase_state = phase_of(config), dict[str, Any]()
        if self._phase is not None:
            try:
                self._phase.check(self.model)
            except ConversionError:
                if not compared:
                    raise
                self._phase = None
        hardware = hardware_of(config, self.model, compared=compared)
        self.stepper = Stepper(self.model, config, runtime, self.steps_per_epoch, self.method, hardware)
        self.seconds: list[float] = []
        self.evaluation: schema.Evaluation | None = None
        self._best, self._best_epoch, self._dead = -1.0, 0, list[str]()
        self._sums = Sums(runtime.device)
        self._warned: set[str] = set()  # layers of which norm_warning has told
        self._last: Step

    def about(self) -> schema.Arm:
        """What the first event says of this arm."""
        return schema.Arm(self.name, self.config.run.seed, self.method.formulas(self.model))

    # -- what the loop asks for -----------------------------------------------------------------------------------

    def _mirror(self, step: int) -> None:
        """The mirror phase before an epoch, if there is one: a function of (seed, epoch), alike in every process."""
        epoch, start = divmod(step, self.steps_per_epoch)
        settings = self.config.backward
        every = (1 if settings.mirror_steps else 0) if settings.mirror_every is None else settings.mirror_every
        if self._phase is not None and start == 0 and (epoch % every == 0 if every else epoch == 0):
            taught = self._phase.run(self.model, self.config.run.seed * 1_000_003 + epoch, self._phase_state)
            self._phase_state = taught.state
            layers = aligned_layers(self.model)
            self.runtime.share(tensor for _, layer in layers for tensor in layer.state.values())

    def step(self, step: int) -> None:
        """Forward, backward and update on the batch of this step; before an epoch, the mirror phase."""
        self._mirror(step)
        x, y = self.batches.at(self.config.run.seed, step)
        if self.compared:
            self.runtime.synchronize()
        began = time.perf_counter()
        done = self.stepper.forward_backward(step, x, y)
        if self.runtime.any(not math.isfinite(float(done.loss))):
            bad = first_bad(self.model, x)
            raise DivergedError(f"the loss of step {step} is not finite; first: {bad}", bad)
        self.stepper.update(step, done)
        if self.compared:
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

        def task(output: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(output.float(), y)

        x, model, method = layout(x, self.config), self.model, self.method
        objective = None
        if type(method).objective is not Method.objective:
            objective = lambda: method.objective(model, x, y, task)[0]  # noqa: E731
        found = readings(model, lambda: task(method.predict(model, x), y), objective=objective)
        return {name: dict(values) for name, values in {**found, **method.readings(model)}.items()}

    def evaluate(self, step: int) -> None:
        """Loss and accuracy on the validation part, and after the last step on the test split; where they are."""
        loss, hits, n = self.runtime.sum(*self._sums.take("epoch"))
        last = step == self.config.steps(self.steps_per_epoch)
        on = {"eval": self.data.validation, "test": self.data.test if last else None}
        measured = dict[str, Any]()
        with self.stepper.evaluated(step) as model:
            self.runtime.share(model.buffers())  # of batch norms: those that are saved are those that are evaluated
            predict = partial(self.method.predict, model)
            if self.config.run.six_views and last:
                predict = partial(of_six_views, predict)
            for name, source in on.items():
                if source is not None:
                    found = evaluate(predict, source, self.config, self.runtime)
                    measured |= {f"{name}_{key}": value for key, value in found.items()}
        epoch = -(-step // self.steps_per_epoch)
        self.score = measured.get("eval_accuracy") if epoch else None  # untrained weights are not to be chosen
        self._dead = dead(self.model)
        if self.score is not None and self.score > self._best:
            self._best, self._best_epoch = self.score, epoch
        self.evaluation = schema.Evaluation(
            step,
            epoch,
            train_loss=loss / n if n else None,
            train_accuracy=hits / n if n else None,
            **measured,
        )
        self.record(self.evaluation)
        if not all(map(math.isfinite, measured.values())):
            bad = weights_finite(self.model) or "the loss"
            raise DivergedError(f"the loss of the evaluation after step {step} is not finite; first: {bad}", bad)

    @property
    def accuracy(self) -> float | None:
        """Of the last evaluation: on the test split, read at the end, or on the validation part where it is not."""
        if self.evaluation is None:
            return None
        return self.evaluation.eval_accuracy if self.data.test is None else self.evaluation.test_accuracy

    def norm_warning(self) -> str | None:
        """A warning of layers where |B| / |W| is not within 0.1 to 10, once for each; None if there is none new."""
        found = {name: ratio for name, ratio in check_norms(self.model).items() if name not in self._warned}
        self._warned.update(found)
        if not found:
            return None
        layers = ", ".join(f"{name or 'the model'} ({ratio:.3g})" for name, ratio in found.items())
        return f"warning: |B| / |W| of {self.name} is not within 0.1 to 10: {layers}; lower the rates of W and B"

    def check(self, step: int) -> None:
        """Weights that are not finite are never saved."""
        if (bad := weights_finite(self.model)) is not None:
            raise DivergedError(f"{bad} is not finite after step {step}", bad)

    def weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def state(self) -> dict[str, Any]:
        return {
            "optimizers": self.stepper.optimizers.state(),
            "ema": self.stepper.mean and self.stepper.mean.tensors,
            "lookahead": self.stepper.lookahead and self.stepper.lookahead.tensors,
            "sums": self.runtime.gathered(self._sums.state()),
            "evaluation": None if self.evaluation is None else schema.as_data(self.evaluation),
            "best": [self._best, self._best_epoch],
            "dead": self._dead,
            "phase": self._phase_state,
        }

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.model.load_state_dict(weights)
        self.stepper.optimizers.load(state["optimizers"])
        for average, tensors in ((self.stepper.mean, state["ema"]), (self.stepper.lookahead, state["lookahead"])):
            if average is not None and tensors is not None:
                average.tensors = {key: value.to(self.runtime.device) for key, value in tensors.items()}
        self._sums.load(state["sums"], self.runtime.rank, self.runtime.world)
        self.recall(state)
        self.score = None if self.evaluation is None else self.evaluation.eval_accuracy
        self._phase_state = state["phase"]

    def recall(self, state: dict[str, Any]) -> None:
        if state["evaluation"] is not None:
            self.evaluation = schema.Evaluation(**state["evaluation"])
        self._best, self._best_epoch = state["best"]
        self._dead = list(state["dead"])

    def speed(self, step: int, steps: int, seconds: float) -> schema.Speed:
        """The run's speed, its memory, and what could not be read of the data."""
        return schema.Speed(
            step,
            examples_per_second=steps * self.config.run.batch_size / seconds,
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
        last: dict[str, schema.ByLayer] = {}
        if failed is None:
            try:
                last = self._readings()
            except DivergedError as error:  # of a method whose passes settle
                failed = schema.Diverged(step, str(error), layer=error.layer)
        found = schema.ArmResult(
            self.name,
            self.config.run.seed,
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
        end = self.evaluation
        assert end is not None
        with self.stepper.evaluated(step) as model:
            seen = None if self.compared else first_layer(model, self.data.shape)
        return dataclasses.replace(
            found,
            accuracy=self.accuracy,
            loss=end.eval_loss if self.data.test is None else end.test_loss,
            readings=last,
            collapsed=tuple(collapsed(self.model, weight_angles(self.model))),
            fields=seen,
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
