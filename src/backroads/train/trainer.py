"""``backroads train``: read this first. Settings in, a run folder out, and nothing lost on the way.

Everything random is a function of (seed, epoch or step, process), so that a checkpoint needs weights, optimisers and
counters only, and a run that was stopped and went on is the run that never was.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backroads.data import Dataset, load_dataset
from backroads.errors import ConfigError, RunError
from backroads.feedback.conversion import aligned_layers, convert
from backroads.feedback.rules import Alignment, Rule, get_rule
from backroads.metrics import weight_angles
from backroads.models import build_model
from backroads.phases import mirror
from backroads.runs import checkpoint
from backroads.runs.environment import environment
from backroads.runs.folder import RunFolder
from backroads.train.runtime import Runtime, Stopper, prepare, runtime
from backroads.train.settings import TrainConfig, differences
from backroads.train.step import Step, Stepper, evaluate, first_bad, weights_finite

COLLAPSED = 85.0  # degrees between W and B at the end, for a rule that should have brought them together


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a training is: ``done`` of ``total`` steps, and a line when there is something to say."""

    done: int
    total: int
    line: str | None = None


@dataclasses.dataclass
class Counters:
    """Where the run is, between two steps; saved as it is.

    Attributes:
        step: optimiser steps done.
        best: highest accuracy so far; best_epoch: when. dead: layers whose W got no gradient in the epoch's last step.
    """

    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    dead: list[str] = dataclasses.field(default_factory=list)


class Sums:
    """Loss, hits and images of this process's part of the training, since the epoch and since the log's last line.

    They stay on the device until they are asked for. Saved as they are, one row a process: added up at another moment,
    their last bit would be another.
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
        """[loss, hits, images] since the "epoch" or the "line" began, which begins anew."""
        sums = self._epoch if which == "epoch" else self._line
        values: list[float] = sums.tolist()
        sums.zero_()
        return values

    def state(self) -> list[float]:
        """All six numbers."""
        return [*self._epoch.tolist(), *self._line.tolist()]

    def load(self, rows: list[list[float]], rank: int) -> None:
        """The inverse of :meth:`state`, from the rows of all processes; processes beyond them begin at zero."""
        own = rows[rank] if rank < len(rows) else [0.0] * 6
        self._epoch.copy_(torch.tensor(own[:3], dtype=torch.float64))
        self._line.copy_(torch.tensor(own[3:], dtype=torch.float64))


def rules_of(config: TrainConfig) -> Rule | dict[str, Rule]:
    """The rule, or the rules by pattern; raises RuleError.

    Kolen-Pollack's decay is left to its optimiser, which is W's own; see ``train/optimizers.py``. Symmetric alignment
    goes all the way in each step: a B that lags behind W costs speed at high rates of W.
    """
    options = dict(config.rule_options)
    if config.rule == "symmetric_alignment":
        options = {"decay": 1.0, "self_": 1.0} | options
    if config.rule == "kolen_pollack" and config.backward_optimizer == "auto":
        options.setdefault("decay", 0.0)
    rule = get_rule(config.rule, **options)
    return {**{pattern: get_rule(name) for pattern, name in config.rules.items()}, "*": rule} if config.rules else rule


def mirror_rule(config: TrainConfig) -> Alignment | None:
    """What teaches B in the phases before epochs; None without any. Raises RuleError."""
    if not config.mirror_steps:
        return None
    rule = get_rule("normalised_mirror", **config.mirror_options)
    assert isinstance(rule, Alignment)
    return rule


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


def train(
    config: TrainConfig, path: Path, report: Callable[[Progress], None], *, resume: bool = False
) -> dict[str, Any]:
    """Train a model in a run folder, from the start or from its last checkpoint, and return the results.

    Args:
        config: the settings. path: the run folder; new, unless ``resume``. report: called after every step.
        resume: go on from the newest whole checkpoint in ``path``.

    Raises:
        ConfigError, RuleError, ConversionError: before anything is trained.
        RunError: the run cannot go on (disk full, another process lost, too many corrupt images); the last checkpoint
            is intact.
    """
    with runtime(config) as here, Stopper() as stopper:
        try:
            return Training(config, path, here, stopper, report, resume).run()
        except OSError as error:
            last = checkpoint.load_newest(path / "checkpoints", set_aside=False)[0]
            kept = (
                f"the checkpoint of step {last.manifest.step} is intact, go on with --resume" if last else "none saved"
            )
            raise RunError(f"{error.strerror or error}: {error.filename or path}; {kept}") from error
        except RuntimeError as error:
            if here.world > 1 and _is_lost_peer(error):
                raise RunError(
                    "another process of this run was lost; the last checkpoint is intact, start all processes again "
                    f"with --resume ({str(error).splitlines()[0]})"
                ) from error
            raise


class Training:
    """One run: built whole, so that what is wrong is said before anything is written; then :meth:`run`."""

    def __init__(
        self,
        config: TrainConfig,
        path: Path,
        here: Runtime,
        stopper: Stopper,
        report: Callable[[Progress], None],
        resume: bool,
    ) -> None:
        self.config, self.path, self.here, self.stopper, self.report = config, path, here, stopper, report
        self.checkpoints = path / "checkpoints"
        self.data = dataset_of(config, here.device)
        self.steps_per_epoch = len(self.data.train) // config.batch_size
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"batch_size: expected at most {len(self.data.train)}, the images of the training split, "
                f"got {config.batch_size}"
            )
        self.total = config.epochs * self.steps_per_epoch
        self.model = prepare(make_model(config, self.data), config, here)
        self._phase = mirror_rule(config)
        if self._phase is not None:
            mirror(self.model, 0, self._phase)  # no step: says what is wrong, if anything is
        self.stepper = Stepper(self.model, config, here, self.steps_per_epoch)
        self.counters = Counters()
        self.resumed_from: int | None = None
        self.folder: RunFolder | None = None
        self._board: Any = None
        self._began = self._logged_at = time.perf_counter()
        self._logged_step = 0
        self._sums = Sums(here.device)
        self._goes_on = resume

    # -- start, save and go on ------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self.here.leads:
            self.folder = RunFolder(self.path, self.config.model_dump(exclude_none=True), environment())
            self._event(
                "start",
                rules={name: repr(layer.rule) for name, layer in aligned_layers(self.model)},
                steps_per_epoch=self.steps_per_epoch,
                epochs=self.config.epochs,
                parameters=sum(p.numel() for p in self.model.parameters()),
                train_images=len(self.data.train),
                eval_images=len(self.data.evaluate),
            )
        self._angles()
        self._end_epoch(0)
        self._save(self._accuracy)

    def _resume(self) -> None:
        found: checkpoint.Checkpoint | None = None
        problems: list[str] = []
        if self.here.leads:
            found, problems = checkpoint.load_newest(self.checkpoints)
        name = self.here.shared(None if found is None else found.path.name)
        if name is None:
            if self.here.leads:
                self._clear()
            return self._start()
        found = found or checkpoint.load(self.checkpoints / name)
        self.model.load_state_dict(found.model)
        self.stepper.optimizers.load(found.state["optimizers"])
        if self.stepper.ema is not None:
            self.stepper.ema = {key: value.to(self.here.device) for key, value in found.state["ema"].items()}
        self.counters = Counters(**found.state["counters"])
        rows = found.state["sums"]
        if len(rows) != self.here.world:
            rows = [[sum(column) for column in zip(*rows, strict=True)]]
        self._sums.load(rows, self.here.rank)
        self._accuracy = found.manifest.score
        self.resumed_from = self._logged_step = self.counters.step
        if self.here.leads:
            self.folder = RunFolder.reopen(self.path, found.state["events_size"])
            self.folder.configure(self.config.model_dump(exclude_none=True))
            self.folder.system("resume", step=self.counters.step, processes=self.here.world, problems=problems)
            for problem in problems:
                self._say(f"damaged checkpoint set aside: {problem}")
            self._say(f"going on from step {self.counters.step}")
            checkpoint.prune(self.checkpoints, self.config.keep)
        return None

    def _clear(self) -> None:
        """Remove what a run wrote before its first checkpoint, so that it can begin anew."""
        for name in ("config.toml", "environment.json", "events.jsonl", "system.jsonl"):
            (self.path / name).unlink(missing_ok=True)
        for leftover in self.path.glob("*.tmp"):
            leftover.unlink()
        if self.checkpoints.is_dir():
            checkpoint.prune(self.checkpoints, 1)
            if not any(self.checkpoints.iterdir()):
                self.checkpoints.rmdir()

    def _save(self, score: float | None = None) -> None:
        """A checkpoint of this moment; weights that are not finite are never saved."""
        if (bad := weights_finite(self.model)) is not None:
            raise _Diverged(f"{bad} is not finite after step {self.counters.step}", bad)
        sums = self.here.gathered(self._sums.state())
        if self.folder is None:
            return
        began = time.perf_counter()
        state = {
            "optimizers": self.stepper.optimizers.state(),
            "sums": sums,
            "counters": dataclasses.asdict(self.counters),
            "events_size": self.folder.events_size(),
            "ema": self.stepper.ema,
        }
        checkpoint.save(self.checkpoints, self.counters.step, self.model.state_dict(), state, score)
        checkpoint.prune(self.checkpoints, self.config.keep)
        self.folder.system("checkpoint", step=self.counters.step, seconds=time.perf_counter() - began)

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train to the end, or until something ends it; writes and returns the results."""
        try:
            self._resume() if self._goes_on else self._start()
            while self.counters.step < self.total:
                if self._epoch() is not None:
                    return self._leave()
            return self._finish("finished", None)
        except _Diverged as reason:
            return self._finish("diverged", reason)
        finally:
            if self.folder is not None:
                self.folder.close()
            if self._board is not None:
                self._board.close()

    def _epoch(self) -> int | None:
        """One epoch, or what is left of it; the signal that ends the run, if one came."""
        config, counters = self.config, self.counters
        epoch, start = divmod(counters.step, self.steps_per_epoch)
        if start == 0:
            self._mirror(epoch)
        batches = self.data.train.train_batches(
            config.batch_size,
            seed=config.seed,
            epoch=epoch + 1,
            start_step=start,
            rank=self.here.rank,
            world=self.here.world,
        )
        for x, y in batches:
            self._step(x, y)
            at_end = counters.step % self.steps_per_epoch == 0
            if counters.step % config.log_every == 0 or at_end:
                self._log()
            if self._due(config.angles_every):
                self._angles()
            if at_end:
                self._end_epoch(counters.step // self.steps_per_epoch)
                self._save(self._accuracy)
            elif config.checkpoint_every and counters.step % config.checkpoint_every == 0:
                self._save()
            if self._stop and counters.step < self.total:
                if not at_end:
                    self._save()
                return self._stop
        return None

    def _mirror(self, epoch: int) -> None:
        """The mirror phase before an epoch, if there is one: a function of (seed, epoch), alike in every process."""
        config = self.config
        if self._phase is not None:
            mirror(self.model, config.mirror_steps, self._phase, seed=config.seed * 1_000_003 + epoch)
            self.here.share(B for _, layer in aligned_layers(self.model) if (B := layer.backward_weight) is not None)

    def _step(self, x: Tensor, y: Tensor) -> None:
        counters = self.counters
        done = self.stepper.forward_backward(counters.step, x, y)
        bad, stop = self.here.any(not math.isfinite(float(done.loss)), self.stopper.signal is not None)
        if bad:
            raise _Diverged(
                f"the loss of step {counters.step} is not finite; first: {first_bad(self.model, x)}",
                first_bad(self.model, x),
            )
        self.stepper.update(counters.step, done)
        self._last = done
        self._sums.add(done)
        counters.step += 1
        self._stop = (self.stopper.signal or 15) if stop else 0
        self.report(Progress(counters.step, self.total))

    _stop = 0
    _last: Step
    _accuracy: float | None = None

    # -- what is written ------------------------------------------------------------------------------------------

    def _log(self) -> None:
        """The mean loss and accuracy since the last line, the rates, and the speed."""
        counters, last = self.counters, self._last
        loss, hits, n = self.here.sum(*self._sums.take("line"))
        fields: dict[str, Any] = {
            "step": counters.step,
            "epoch": counters.step / self.steps_per_epoch,
            "loss": loss / n,
            "accuracy": hits / n,
            "learning_rate": last.learning_rate,
            "backward_rate": last.backward_rate,
        }
        if last.gradient_norm is not None:
            fields["gradient_norm"] = last.gradient_norm
        if last.coefficients:
            fields["coefficients"] = last.coefficients
        self._event("step", **fields)
        self._speed()

    def _speed(self) -> None:
        now, steps = time.perf_counter(), self.counters.step - self._logged_step
        seconds = now - self._logged_at
        self._logged_at, self._logged_step = now, self.counters.step
        if self.folder is not None and steps:
            self.folder.system(
                "speed",
                step=self.counters.step,
                images_per_second=steps * self.config.batch_size / seconds,
                step_ms=1000 * seconds / steps,
                memory_mb=_memory_mb(self.here.device),
                corrupt_images=len(self.data.train.corrupt),
            )

    def _due(self, every: float) -> bool:
        """Whether a multiple of ``every`` epochs was passed with the last step."""
        step = self.counters.step
        return math.floor(step / self.steps_per_epoch / every) > math.floor((step - 1) / self.steps_per_epoch / every)

    def _angles(self) -> None:
        if self.here.leads:
            step = self.counters.step
            self._event("angles", step=step, epoch=step / self.steps_per_epoch, weight_angle=weight_angles(self.model))

    def _end_epoch(self, epoch: int) -> None:
        """Evaluate, and write the epoch's line."""
        counters = self.counters
        loss, hits, n = self.here.sum(*self._sums.take("epoch"))
        with self.stepper.evaluated() as model:
            self.here.share_buffers(model)
            measured = evaluate(model, self.data.evaluate, self.config, self.here)
        self._accuracy = measured["eval_accuracy"]
        counters.dead = dead(self.model)
        if epoch and self._accuracy > counters.best:
            counters.best, counters.best_epoch = self._accuracy, epoch
        train_loss = loss / n if n else None
        self._event(
            "epoch",
            epoch=epoch,
            step=counters.step,
            train_loss=train_loss,
            train_accuracy=hits / n if n else None,
            **measured,
        )
        if epoch:
            self._say(
                f"epoch {epoch}/{self.config.epochs}: loss {train_loss:.4f}, {self.config.split} loss "
                f"{measured['eval_loss']:.4f}, accuracy {100 * self._accuracy:.2f} %"
            )
        if not math.isfinite(measured["eval_loss"]):
            bad = weights_finite(self.model)
            raise _Diverged(f"the loss of the evaluation after step {counters.step} is not finite", bad or "the loss")
        self._logged_at = time.perf_counter()

    def _event(self, kind: str, **fields: Any) -> None:
        if self.folder is None:
            return
        self.folder.event(kind, **fields)
        if self.config.tensorboard:
            self._to_board(kind, fields)

    def _to_board(self, kind: str, fields: dict[str, Any]) -> None:
        if self._board is None:
            from backroads.train.board import open_board

            self._board = open_board(self.path / "tensorboard", self.counters.step)
        for name, value in fields.items():
            parts = value.items() if isinstance(value, dict) else [(None, value)]
            for part, number in parts:
                if isinstance(number, int | float) and name not in ("step", "epoch"):
                    tag = f"{kind}/{name}" + (f"/{part}" if part else "")
                    self._board.add_scalar(tag, number, self.counters.step)

    def _say(self, line: str) -> None:
        self.report(Progress(self.counters.step, self.total, line))

    # -- ends -----------------------------------------------------------------------------------------------------

    def _leave(self) -> dict[str, Any]:
        if self.folder is not None:
            self.folder.system("stopped", step=self.counters.step, signal=self._stop)
        return {"kind": "train", "status": "stopped", "signal": self._stop, "step": self.counters.step}

    def _finish(self, status: str, reason: _Diverged | None) -> dict[str, Any]:
        """Write the results and say what is wrong with the run, if anything is."""
        counters = self.counters
        angles = weight_angles(self.model)
        results: dict[str, Any] = {
            "kind": "train",
            "status": status,
            "reason": None if reason is None else str(reason),
            "layer": None if reason is None else reason.layer,
            "step": counters.step,
            "epochs": counters.step / self.steps_per_epoch,
            "eval_accuracy": self._accuracy if reason is None else None,
            "best_accuracy": counters.best if counters.best >= 0 else None,
            "best_epoch": counters.best_epoch,
            "weight_angles": angles,
            "collapsed": [] if reason is not None else collapsed(self.model, angles),
            "dead": counters.dead,
            "corrupt_images": dict(self.data.train.corrupt),
            "seconds": time.perf_counter() - self._began,
        }
        if self.folder is not None:
            if reason is not None:
                self._event("diverged", step=counters.step, reason=str(reason), layer=reason.layer)
            if self.resumed_from != counters.step or not (self.path / "results.json").exists():
                self.folder.results(results)
        return results


class _Diverged(Exception):
    """Numbers are not finite: the run ends, the checkpoints stay."""

    def __init__(self, text: str, layer: str) -> None:
        super().__init__(text)
        self.layer = layer


def check_resume(old: TrainConfig, new: TrainConfig) -> None:
    """Refuse to go on with other settings; raises ConfigError with the list of differences."""
    found = differences(old, new)
    if found:
        raise ConfigError(
            "resume: the settings differ from those of the run:\n  "
            + "\n  ".join(found)
            + "\nleave them out to go on, or start a new run with another --out"
        )


def collapsed(model: torch.nn.Module, angles: dict[str, float]) -> list[str]:
    """Layers whose B should have come to W and stands at a right angle (from 85 degrees) to it."""
    learns = {name for name, layer in aligned_layers(model) if isinstance(layer.rule, Alignment) and layer.rule.learns}
    return [name for name, degrees in angles.items() if name in learns and not degrees < COLLAPSED]


def dead(model: torch.nn.Module) -> list[str]:
    """Layers whose W got a gradient of zeros in the last step."""
    return [
        name
        for name, layer in aligned_layers(model)
        if layer.parameter.grad is not None and not bool(layer.part(layer.parameter.grad).any())
    ]


def _is_lost_peer(error: RuntimeError) -> bool:
    text = str(error)
    return "gloo" in text.lower() or "nccl" in text.lower() or "Connection" in text or "Socket" in text


def _memory_mb(device: torch.device) -> float:
    """Peak memory: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
