"""One step of training: forward, backward and update; and the passes that only look."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.data import Source
from backroads.errors import ConfigError, nearest
from backroads.feedback.conversion import aligned_layers, alignment_scale, set_coefficients
from backroads.feedback.conversion.groups import clip_gradients
from backroads.feedback.primitives import PRIMITIVES
from backroads.methods.base import Method
from backroads.runs.runtime import Runtime
from backroads.train.averages import Lookahead, RunningMean
from backroads.train.hardware import DeviceModel
from backroads.train.optimizers import Optimizers
from backroads.train.runtime import layout, wrap
from backroads.train.schedule import CoefficientSchedule, RateSchedule
from backroads.train.settings import TrainSettings


@dataclasses.dataclass
class Step:
    """What one step was like.

    Attributes:
        loss: mean over this process's part of the batch, with label smoothing, where that is on. hits: how many of it
            were right. n: its size. gradient_norm: of W before clipping; None without clipping.
        learning_rate, backward_rate: in effect. coefficients: of the rule, where they are scheduled.
    """

    loss: Tensor
    hits: Tensor
    n: int
    learning_rate: float = 0.0
    backward_rate: float = 0.0
    gradient_norm: float | None = None
    coefficients: dict[str, float] = dataclasses.field(default_factory=dict)


class Objective(torch.nn.Module):
    """The scalar that training differentiates, as a module, so that one forward pass computes all of it.

    Args:
        model: prepared by the method. label_smoothing: weight of the uniform distribution in the targets.
    """

    def __init__(self, model: torch.nn.Module, method: Method, label_smoothing: float) -> None:
        super().__init__()
        self.model, self.method, self.label_smoothing = model, method, label_smoothing

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The scalar, and the model's output without gradient, (N, classes)."""
        return self.method.objective(self.model, x, y, self._loss)

    def _loss(self, output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output.float(), y, label_smoothing=self.label_smoothing)


class Stepper:
    """Takes steps: holds the model, its optimisers and the schedules, and nothing that a checkpoint does not."""

    def __init__(
        self,
        model: torch.nn.Module,
        config: TrainSettings,
        runtime: Runtime,
        steps_per_epoch: int,
        method: Method,
        hardware: DeviceModel,
    ) -> None:
        self.model, self.config, self.runtime, self.hardware = model, config, runtime, hardware
        self.optimizers = Optimizers(model, config, steps_per_epoch, method.parameter_groups(model))
        self.wrapped = wrap(Objective(model, method, config.run.label_smoothing), config, runtime)
        self._scale: float | None = None
        self._learns = any(True for _ in aligned_layers(model))
        self._rates = RateSchedule(
            delay_epochs=config.backward.delay_epochs or None,
            alternate_step_freq=config.backward.alternate_step_freq,
            steps_per_epoch=steps_per_epoch,
        )
        self._coefficients = coefficient_schedules(model, config, steps_per_epoch)
        run = config.run
        self.mean = None if run.ema is None else RunningMean(model, run.ema)
        self.lookahead = None
        if run.lookahead is not None:
            self.lookahead = Lookahead(model, run.lookahead, steps_per_epoch, run.epochs * steps_per_epoch)
        self._frozen = frozen(model, config.optimizer.freeze_after)
        self._steps_per_epoch = steps_per_epoch

    def forward_backward(self, step: int, x: Tensor, y: Tensor) -> Step:
        """Gradients of one batch; the loss of every part is known before anything is updated."""
        config, runtime = self.config, self.runtime
        # Draws of noise, dropout and random rules: a function of (seed, step, process), whatever came before.
        torch.manual_seed(config.run.seed * 1_000_003 + step + runtime.rank * 500_000_003)
        coefficients = {name: schedule(step) for name, schedule in self._coefficients.items()}
        if coefficients:
            set_coefficients(self.model, **coefficients)
        task, align = self._rates(step)
        for optimizer in (self.optimizers.forward, self.optimizers.backward):
            if optimizer is not None:
                optimizer.zero_grad(set_to_none=True)
        losses, hits = [], []
        xs, ys = x.chunk(config.run.accumulate), y.chunk(config.run.accumulate)
        with self.hardware.read(step):
            for i, (part_x, part_y) in enumerate(zip(xs, ys, strict=True)):
                share = len(part_x) / len(x)  # parts may differ in size, or be fewer, at the end of an epoch
                self._scale_alignment(align * share)
                quiet = self.wrapped.no_sync() if runtime.world > 1 and i + 1 < len(xs) else contextlib.nullcontext()
                with quiet:
                    with autocast(config, runtime):
                        loss, output = self.wrapped(layout(part_x, config), part_y)
                    (loss * (task * share)).backward()
                losses.append(loss.detach().double() * len(part_x))
                hits.append((output.argmax(1) == part_y).sum())
        done = Step(torch.stack(losses).sum() / len(x), torch.stack(hits).sum(), len(x), coefficients=coefficients)
        done.learning_rate, done.backward_rate = self.optimizers.set_rates(step)
        return done

    def update(self, step: int, done: Step) -> None:
        """Move the weights by the gradients that are there."""
        task, align = self._rates(step)
        if self.config.optimizer.clip_norm is not None:
            self._scale_alignment(align)  # of all parts together
            done.gradient_norm = clip_gradients(self.model, self.config.optimizer.clip_norm)
        for parameter, epochs in self._frozen:
            if step >= epochs * self._steps_per_epoch:
                parameter.grad = None  # no optimiser moves what has none
        with self.hardware.write(step):
            if task:
                self.optimizers.forward.step()
            if align and self.optimizers.backward is not None:
                self.optimizers.backward.step()
            if self.lookahead is not None:
                self.lookahead.update(step)
        if self.mean is not None:
            self.mean.update(step)

    def _scale_alignment(self, scale: float) -> None:
        """Set the factor on the alignment gradients, where it is another."""
        if self._learns and self._scale != scale:
            self._scale = scale
            alignment_scale(self.model, scale)

    @contextlib.contextmanager
    def evaluated(self, step: int) -> Iterator[torch.nn.Module]:
        """The model to evaluate after ``step`` steps: with its running mean inside, if there is one, as its devices are
        read, and in evaluation mode."""
        with contextlib.nullcontext() if self.mean is None else self.mean.inside():
            self.model.eval()
            try:
                with self.hardware.read(step):
                    yield self.model
            finally:
                self.model.train()


def frozen(model: torch.nn.Module, after: dict[str, float]) -> list[tuple[torch.nn.Parameter, float]]:
    """Parameters that stop learning, and after how many epochs; raises ConfigError for a pattern that none fits.

    What gets the increments of a W, as B under Kolen-Pollack, stops with it.
    """
    following = [
        (layer.parameter, tensor)
        for _, layer in aligned_layers(model)
        for name, tensor in layer.state.items()
        if isinstance(tensor, torch.nn.Parameter) and layer.rule.optimiser(name, 0.0).follows
    ]
    found = []
    for pattern, epochs in after.items():
        fits = [p for name, p in model.named_parameters() if fnmatch.fnmatchcase(name, pattern)]
        if not fits:
            known = [name for name, _ in model.named_parameters()]
            raise ConfigError(f"freeze_after: no parameter is called {pattern!r}.{nearest(pattern, known)}")
        fits += [tensor for W, tensor in following if any(W is p for p in fits)]
        found += [(p, epochs) for p in fits]
    return found


def coefficient_schedules(
    model: torch.nn.Module, config: TrainSettings, steps_per_epoch: int
) -> dict[str, CoefficientSchedule]:
    """The schedules of the rule's coefficients; raises ConfigError for settings that make no sense."""
    if not config.schedule.coefficients:
        return {}
    rules = [layer.rule for _, layer in aligned_layers(model)]
    if not rules or not rules[0].coefficients:
        raise ConfigError(f"coefficients: expected a rule with coefficients, got {config.rule.name!r}; leave them out")
    made = {}
    known = {name.rstrip("_"): name for name in PRIMITIVES}
    for name, fields in config.schedule.coefficients.items():
        if name not in known:
            raise ConfigError(f"coefficients: unknown {name!r}.{nearest(name, known)} Known: {', '.join(known)}")
        try:
            given = {"value": rules[0].coefficients[known[name]], **fields}
            made[name] = CoefficientSchedule(**given, steps_per_epoch=steps_per_epoch, epochs=config.run.epochs)
        except TypeError as error:
            raise ConfigError(f"coefficients.{name}: {error}; see CoefficientSchedule for the fields") from None
    return made


def autocast(config: TrainSettings, runtime: Runtime) -> Any:
    """The context of a forward pass: bfloat16 where the settings say so."""
    return torch.autocast(runtime.device.type, torch.bfloat16, enabled=config.run.precision == "bf16")


def of_six_views(predict: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Mean output on (N, C, H, W) and its mirror image; half of it on x itself, a quarter each on x moved by a pixel
    down and right, and up and left, with a reflected border. Source: K. Jordan, arXiv 2404.00498."""
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    moved = [padded[..., at : at + x.shape[2], at : at + x.shape[3]] for at in (0, 2)]
    views = [(0.5, x), *((0.25, each) for each in moved)]
    return torch.stack([share / 2 * (predict(view) + predict(view.flip(3))) for share, view in views]).sum(0)


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor], source: Source, config: TrainSettings, runtime: Runtime
) -> dict[str, float]:
    """Loss and accuracy over every image of ``source`` exactly once, whatever the number of processes.

    Returns:
        ``loss``, ``accuracy`` and ``top5`` (1 with five classes or fewer).
    """
    loss = hits = hits5 = n = 0.0
    for x, y in source.eval_batches(config.run.batch_size, rank=runtime.rank, world=runtime.world):
        with autocast(config, runtime):
            logits = predict(layout(x, config)).float()
        loss += float(F.cross_entropy(logits, y, reduction="sum").double())
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == y[:, None]
        hits += float(best[:, 0].sum())
        hits5 += float(best.any(1).sum())
        n += len(y)
    loss, hits, hits5, n = runtime.sum(loss, hits, hits5, n)
    return {"loss": loss / n, "accuracy": hits / n, "top5": hits5 / n}


def first_bad(model: torch.nn.Module, x: Tensor) -> str:
    """Where numbers stop being finite, in words: the first layer of a forward pass on ``x``, or its weights."""
    if not bool(x.isfinite().all()):
        return "the input batch itself"
    found: list[str] = []

    def hook(name: str) -> Any:
        def look(module: torch.nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not bool(output.isfinite().all()):
                found.append(name)

        return look

    leaves = [(name, m) for name, m in model.named_modules() if not any(True for _ in m.children())]
    handles = [module.register_forward_hook(hook(name or "(root)")) for name, module in leaves]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return "the loss"
    modules = dict(leaves)
    bad = [n for n, p in modules.get(found[0], model).named_parameters(recurse=False) if not bool(p.isfinite().all())]
    return found[0] + (f" (its {', '.join(bad)} is not finite)" if bad else "")


def weights_finite(model: torch.nn.Module) -> str | None:
    """The first parameter that is not finite, or None."""
    norms = torch._foreach_norm([p.detach() for p in model.parameters()], math.inf)
    if bool(torch.stack([n.float() for n in norms]).isfinite().all()):
        return None
    return next((name for name, p in model.named_parameters() if not bool(p.isfinite().all())), None)
