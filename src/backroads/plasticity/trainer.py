"""``backroads meta train``: settings in, a run folder out, and nothing lost on the way.

Episodes are a function of (seed, meta-step), so that a checkpoint needs meta-parameters, optimisers and counters only.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backroads.errors import ConfigError, RunError
from backroads.plasticity.evaluate import measure
from backroads.plasticity.network import MetaNetwork
from backroads.plasticity.settings import MetaConfig, differences, resolve
from backroads.plasticity.tasks.episode import Episodes, Split, Tasks, seeded
from backroads.plasticity.tasks.images import ImageClasses
from backroads.plasticity.tasks.load import load_tasks
from backroads.runs import checkpoint
from backroads.runs.environment import environment
from backroads.runs.folder import RunFolder
from backroads.runs.progress import Progress
from backroads.runs.runtime import find_device
from backroads.runs.settings import read_toml
from backroads.runs.signals import Stopper

DECAY = 0.3


@dataclasses.dataclass
class Counters:
    """Where the run is, between two meta-steps; saved as it is.

    Attributes:
        step: meta-steps done, skipped ones included. bad: meta-gradients that were not finite. bad_in_a_row: up to now.
        bad_by_parameter: how often each parameter's was not. loss, steps: summed since the last line of the log.
    """

    step: int = 0
    bad: int = 0
    bad_in_a_row: int = 0
    bad_by_parameter: dict[str, int] = dataclasses.field(default_factory=dict)
    loss: float = 0.0
    steps: int = 0


class MetaStep:
    """Takes meta-steps: lifetimes, the query loss, its gradient, Adam.

    Args:
        network: what is trained, on its device.
    """

    def __init__(self, network: MetaNetwork) -> None:
        self.network, self.config = network, network.config
        rates = {
            "forward": self.config.lr_forward,
            "feedback": self.config.lr_feedback,
            "plasticity": self.config.lr_plasticity,
            "strength": self.config.lr_strength,
        }
        self.optimizers: dict[str, torch.optim.Adam] = {}
        for group, parameters in network.groups().items():
            for parameter in parameters:
                parameter.requires_grad_(rates[group] > 0)  # no gradient for what does not move
            if parameters and rates[group] > 0:
                self.optimizers[group] = torch.optim.Adam(parameters, lr=rates[group])

    def gradient(self, number: int, episodes: Episodes) -> Tensor:
        """The loss, (), and the gradients in their places."""
        config, network = self.config, self.network
        generator = seeded(config.seed, 10, number)
        if config.vary_length:
            T = episodes.support.shape[1]
            episodes = episodes.until(int(torch.randint(max(1, T // 10), T + 1, (), generator=generator)))
        if config.batch_learning:
            episodes = episodes.at_once()
        network.zero_grad()
        losses = network.supervised_loss(episodes) if config.pretrain else network.query_loss(episodes, generator)
        loss = losses.mean()
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    def update(self, number: int) -> list[str]:
        """Adam's step; if a gradient is not finite nothing moves, and the parameters' names are returned."""
        bad = not_finite(self.network)
        if not bad:
            for group, optimizer in self.optimizers.items():
                if group == "forward":
                    factor = DECAY ** sum(number >= at for at in self.config.decay_at)
                    for one in optimizer.param_groups:
                        one["lr"] = self.config.lr_forward * factor
                optimizer.step()
        return bad


def not_finite(network: torch.nn.Module) -> list[str]:
    """Names of parameters whose gradient has NaN or infinity."""
    found = [(name, p.grad) for name, p in network.named_parameters() if p.grad is not None]
    norms = torch._foreach_norm([gradient for _, gradient in found]) if found else []
    if not found or bool(torch.stack(list(norms)).isfinite().all()):
        return []
    return [name for name, gradient in found if not bool(gradient.isfinite().all())]


def make_network(config: MetaConfig, tasks: Tasks) -> MetaNetwork:
    """The network of a run, on the CPU."""
    return MetaNetwork(config, tasks.shape)


def meta_train(
    config: MetaConfig, path: Path, report: Callable[[Progress], None], *, resume: bool = False
) -> dict[str, Any]:
    """Meta-train in a run folder, from the start or from its last checkpoint, and return the results.

    Args:
        config: the settings. path: the run folder; new, unless ``resume``. report: called after every meta-step.
        resume: go on from the newest whole checkpoint in ``path``.

    Raises:
        ConfigError, ShapeError: before anything is trained. RunError: the disk is full; the last checkpoint is intact.
    """
    with Stopper() as stopper:
        try:
            return MetaTraining(config, path, stopper, report, resume).run()
        except OSError as error:
            raise RunError(
                f"{error.strerror or error}: {error.filename or path}; the last checkpoint is intact: --resume"
            ) from error


class MetaTraining:
    """One run: built whole, so that what is wrong is said before anything is written; then :meth:`run`."""

    def __init__(
        self, config: MetaConfig, path: Path, stopper: Stopper, report: Callable[[Progress], None], resume: bool
    ) -> None:
        self.config, self.path, self.stopper, self.report = config, path, stopper, report
        self.checkpoints = path / "checkpoints"
        self.device = find_device(config.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.tasks = load_tasks(config)
        self.choice: Split = "validation"
        self.tasks.check(self.choice, config.tasks)
        self.network = make_network(config, self.tasks).to(self.device)
        if config.pretrain:
            self._check_pretraining()
        self.stepper = MetaStep(self.network)
        self.counters, self._goes_on = Counters(), resume
        self._began = self._logged_at = time.perf_counter()
        self._logged_step = 0

    def _check_pretraining(self) -> None:
        if isinstance(self.tasks, ImageClasses) and (n := len(self.tasks.split("train").members)) > self.config.head:
            raise ConfigError(
                f"head: expected at least {n} outputs to pretrain on as many classes, got {self.config.head}"
            )

    def run(self) -> dict[str, Any]:
        """Train to the end, or until something ends it; writes and returns the results."""
        self.folder = self._resume() if self._goes_on else self._start()
        try:
            while self.counters.step < self.config.meta_steps:
                self._step()
                if self.counters.bad_in_a_row >= self.config.bad_limit:
                    return self._finish("diverged")
                if self.stopper.signal is not None and self.counters.step < self.config.meta_steps:
                    self._save()
                    self.folder.system("stopped", step=self.counters.step, signal=self.stopper.signal)
                    return {"status": "stopped", "signal": self.stopper.signal, "step": self.counters.step}
            return self._finish("finished")
        finally:
            self.folder.close()

    def _start(self) -> RunFolder:
        folder = RunFolder(self.path, {"kind": "meta", **self.config.model_dump(exclude_none=True)}, environment())
        folder.event(
            "start",
            kind_of_run="meta",
            parameters={name: list(p.shape) for name, p in self.network.named_parameters()},
            meta_steps=self.config.meta_steps,
        )
        self.folder = folder
        self._evaluate()
        self._save(self._score)
        return folder

    def _resume(self) -> RunFolder:
        found, problems = checkpoint.load_newest(self.checkpoints)
        if found is None:
            for name in ("config.toml", "environment.json", "events.jsonl", "system.jsonl"):
                (self.path / name).unlink(missing_ok=True)
            return self._start()
        self.network.load_state_dict(found.model)
        for group, optimizer in self.stepper.optimizers.items():
            optimizer.load_state_dict(found.state["optimizers"][group])
        self.counters = Counters(**found.state["counters"])
        self._score = found.manifest.score
        self._logged_step = self.counters.step
        folder = RunFolder.reopen(self.path, found.state["events_size"])
        folder.configure({"kind": "meta", **self.config.model_dump(exclude_none=True)})
        folder.system("resume", step=self.counters.step, problems=problems)
        for line in [*(f"damaged checkpoint set aside: {p}" for p in problems), f"going on from {self.counters.step}"]:
            self._say(line)
        return folder

    def _save(self, score: float | None = None) -> None:
        state = {
            "optimizers": {group: optimizer.state_dict() for group, optimizer in self.stepper.optimizers.items()},
            "counters": dataclasses.asdict(self.counters),
            "events_size": self.folder.events_size(),
        }
        checkpoint.save(self.checkpoints, self.counters.step, self.network.state_dict(), state, score)
        checkpoint.prune(self.checkpoints, self.config.keep)

    def _step(self) -> None:
        counters, config = self.counters, self.config
        number = counters.step
        episodes = self.tasks.episodes("train", number, config.episodes).to(self.device)
        loss = self.stepper.gradient(number, episodes)
        bad = self.stepper.update(number)
        counters.step += 1
        if bad:
            counters.bad += 1
            counters.bad_in_a_row += 1
            for name in bad:
                counters.bad_by_parameter[name] = counters.bad_by_parameter.get(name, 0) + 1
            self.folder.event("not_finite", step=counters.step, loss=float(loss), parameters=bad)
        else:
            counters.bad_in_a_row = 0
            counters.loss += float(loss)
            counters.steps += 1
        if counters.step % config.log_every == 0 or counters.step == config.meta_steps:
            self._log()
        self.report(Progress(counters.step, config.meta_steps))
        if counters.step % config.eval_every == 0 or counters.step == config.meta_steps:
            self._evaluate()
            self._save(self._score)
        elif counters.step % config.checkpoint_every == 0:
            self._save()

    _score: float | None = None

    def _log(self) -> None:
        counters = self.counters
        loss = counters.loss / counters.steps if counters.steps else None
        self.folder.event("step", step=counters.step, loss=loss, not_finite=counters.bad)
        counters.loss, counters.steps = 0.0, 0
        now, steps = time.perf_counter(), counters.step - self._logged_step
        if steps:
            self.folder.system("speed", step=counters.step, seconds_per_meta_step=(now - self._logged_at) / steps)
        self._logged_at, self._logged_step = now, counters.step

    def _evaluate(self) -> None:
        """On tasks that are neither trained on nor tested."""
        found = measure(self.network, self.tasks, self.choice, self.config.eval_lifetimes, at_once=self.config.episodes)
        summary = found.summary()
        del summary["scores"]
        self.folder.event("validation", step=self.counters.step, **summary)
        mean = summary["mean"]
        self._score = None if mean is None else mean if found.accuracy else -mean
        shown = "not finite" if mean is None else f"{100 * mean:.2f} %" if found.accuracy else f"{mean:.4f}"
        self._say(f"meta-step {self.counters.step}/{self.config.meta_steps}: validation {summary['measure']} {shown}")
        self._logged_at = time.perf_counter()

    def _say(self, line: str) -> None:
        self.report(Progress(self.counters.step, max(1, self.config.meta_steps), line))

    def _finish(self, status: str) -> dict[str, Any]:
        counters = self.counters
        reason = None
        if status == "diverged":
            worst = sorted(counters.bad_by_parameter, key=lambda name: -counters.bad_by_parameter[name])
            reason = (
                f"{counters.bad_in_a_row} meta-gradients in a row were not finite, first in {', '.join(worst[:5])}; "
                "lower init_plasticity, lr_plasticity or inner_lr, or take reduction 'mean'"
            )
            self.folder.event("diverged", step=counters.step, reason=reason)
        results = {
            "kind": "meta",
            "status": status,
            "reason": reason,
            "step": counters.step,
            "validation": None if self._score is None else abs(self._score),
            "not_finite": counters.bad,
            "not_finite_by_parameter": counters.bad_by_parameter,
            "seconds": time.perf_counter() - self._began,
        }
        self.folder.results(results)
        return results


def check_resume(old: MetaConfig, new: MetaConfig) -> None:
    """Refuse to go on with other settings; raises ConfigError with the list of differences."""
    if found := differences(old, new):
        raise ConfigError(
            "resume: the settings differ from those of the run:\n  "
            + "\n  ".join(found)
            + "\nleave them out to go on, or start a new run with another --out"
        )


def load_run(path: Path, which: str = "best") -> tuple[MetaNetwork, Tasks, checkpoint.Checkpoint]:
    """The network of a run on the CPU, its tasks, and the checkpoint it came from.

    Args:
        path: the run's folder. which: "best" on validation tasks, or "last".

    Raises:
        ConfigError: no run. StateError: no whole checkpoint.
    """
    config = load_config(path)
    folder = path / "checkpoints"
    found = checkpoint.load_best(folder) if which == "best" else checkpoint.load_newest(folder, set_aside=False)[0]
    found = found or checkpoint.load_best(folder)
    tasks = load_tasks(config)
    network = make_network(config, tasks)
    network.load_state_dict(found.model)
    return network, tasks, found


def load_config(path: Path) -> MetaConfig:
    """The settings of a meta-training; raises ConfigError for a folder that is none."""
    if not (path / "config.toml").is_file():
        raise ConfigError(f"expected the folder of a run, and {path} has no config.toml; give what --out named")
    given = read_toml(path / "config.toml")
    if given.pop("kind", None) != "meta":
        raise ConfigError(f"expected the folder of a meta-training, and {path} is another run's")
    return resolve(given)
