"""``backroads meta train``: settings in, a run folder out.

Episodes are a function of (seed, meta-step), so that a checkpoint needs meta-parameters, optimisers and counters only.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from backroads.errors import ConfigError, DivergedError
from backroads.plasticity.evaluate import measure
from backroads.plasticity.network import MetaNetwork
from backroads.plasticity.settings import GROWING, HARMLESS, MetaConfig, load_config
from backroads.plasticity.tasks.episode import Episodes, Tasks, seeded
from backroads.plasticity.tasks.load import load_tasks
from backroads.runs import checkpoint, schema
from backroads.runs.arm import Arm
from backroads.runs.loggers import Loggers
from backroads.runs.loop import Loop, Times, failures_explained
from backroads.runs.progress import Report
from backroads.runs.runtime import Runtime, joined
from backroads.runs.settings import check_resume_in
from backroads.runs.signals import Stopper

SHRINK = 0.5  # factor on plasticity after a gradient that is not finite
DROP = 0.3  # factor on the rate of forward weights at each of the drop steps
ADVICE = "lower initial_plasticity, lr_plasticity or inner_lr, or take reduction 'mean' or 'power'"


class MetaTraining(Arm):
    """A meta-training: lifetimes, the query loss at their end, its gradient, Adam.

    Several processes share the lifetimes of a meta-step, and each holds the gradient of all.

    Args:
        network: what is trained, on its device.
        tasks: what lifetimes see.
        runtime: this process among its peers; None: it is alone.

    Attributes:
        last: the last evaluation on validation tasks.
        skipped: meta-steps whose gradient was not finite.
        in_a_row: the last ones of them, without another between.
        by_parameter: how often the gradient of each parameter was not finite.
        losses: since the last line of the log.
    """

    def __init__(self, network: MetaNetwork, tasks: Tasks, runtime: Runtime | None = None) -> None:
        self.network, self.tasks, self.config = network, tasks, network.config
        self.runtime = Runtime(torch.device("cpu")) if runtime is None else runtime
        self.last = schema.Lifetimes("accuracy", 0)
        self.skipped, self.in_a_row, self.by_parameter, self.losses = 0, 0, Counter[str](), list[float]()
        self.optimizers: dict[str, torch.optim.Adam] = {}
        for group, parameters in network.groups().items():
            rate = getattr(self.config.meta, f"lr_{group}")
            for parameter in parameters:
                parameter.requires_grad_(rate > 0)  # no gradient for what does not move
            if parameters and rate > 0:
                self.optimizers[group] = torch.optim.Adam(parameters, lr=rate)

    def step(self, step: int) -> None:
        """If a gradient is not finite nothing moves, or plasticity shrinks; after too many in a row the training ends.

        Plasticity that explodes once explodes again, in every lifetime; halved again and again, it comes back to where
        lifetimes are stable.
        """
        episodes = self.tasks.episodes("train", step, self.config.meta.meta_batch_size)
        loss = meta_gradient(self.network, episodes, step, self.runtime)
        bad = not_finite(self.network)
        if not bad:
            self.in_a_row = 0
            self.losses.append(float(loss))
            if (clip := self.config.meta.meta_clip) is not None:
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip)
            drops = sum(step >= drop for drop in self.config.meta.drop_steps)
            for group, optimizer in self.optimizers.items():
                if group == "forward":
                    optimizer.param_groups[0]["lr"] = self.config.meta.lr_forward * DROP**drops
                optimizer.step()
            return
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        self.by_parameter.update(bad)
        if self.config.meta.if_not_finite == "shrink":
            with torch.no_grad():
                for parameter in self.network.groups()["plasticity"]:
                    parameter.mul_(SHRINK)
        if self.in_a_row >= self.config.meta.skip_limit:
            worst = [name for name, _ in self.by_parameter.most_common(5)]
            reason = f"{self.in_a_row} meta-gradients in a row were not finite, most often of {', '.join(worst)}"
            raise DivergedError(f"{reason}; {ADVICE}", worst[0])

    def log(self, step: int) -> None:
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        self.record(schema.Step(step, loss=loss, skipped=self.skipped))
        self.losses.clear()

    def evaluate(self, step: int) -> None:
        """On validation tasks, which are neither trained on nor tested."""
        lifetimes, batch = self.config.run.eval_lifetimes, self.config.meta.meta_batch_size
        found = measure(self.network, self.tasks, "validation", lifetimes, batch=batch)
        self.last = found.summary(step)
        self.record(self.last)
        self.score = found.quality if math.isfinite(found.quality) else None

    def line(self, step: int) -> str:
        """What the last evaluation said, for the terminal."""
        mean, measured = self.last.mean, self.last.measure
        shown = "not finite" if mean is None else f"{100 * mean:.2f} %" if measured == "accuracy" else f"{mean:.4f}"
        return f"meta-step {step}/{self.config.meta.meta_steps}: validation {measured} {shown}"

    def weights(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def state(self) -> dict[str, Any]:
        counts = {"by_parameter": dict(self.by_parameter), "losses": list(self.losses), "score": self.score}
        optimizers = {group: optimizer.state_dict() for group, optimizer in self.optimizers.items()}
        return {"optimizers": optimizers, "skipped": self.skipped, "in_a_row": self.in_a_row, **counts}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.network.load_state_dict(weights)
        for group, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][group])
        self.skipped, self.in_a_row, self.score = state["skipped"], state["in_a_row"], state["score"]
        self.by_parameter, self.losses = Counter(state["by_parameter"]), state["losses"]


def meta_gradient(network: MetaNetwork, episodes: Episodes, step: int, runtime: Runtime | None = None) -> Tensor:
    """The mean query loss of the episodes of a meta-step, (); its gradient is left in the parameters.

    Args:
        network: on its device.
        episodes: of the meta-step, the same in all processes.
        step: its number.
        runtime: this process among its peers; None: it is alone.
    """
    meta, generator = network.config.meta, seeded(network.config.run.seed, 10, step)
    if meta.vary_length:
        T = episodes.support.shape[1]
        episodes = episodes.first_steps(int(torch.randint(max(1, T // 10), T + 1, (), generator=generator)))
    if meta.batch_learning:
        episodes = episodes.in_one_step()
    total, own = episodes.count, slice(None)
    if runtime is not None and runtime.world > 1:
        own = slice(total * runtime.rank // runtime.world, total * (runtime.rank + 1) // runtime.world)
        episodes = episodes.part(runtime.rank, runtime.world)
    episodes = episodes.to(next(network.parameters()).device)
    network.zero_grad()
    losses = network.supervised_loss(episodes) if meta.pretrain else network.query_loss(episodes, generator, own, total)
    loss = losses.sum() / total
    if loss.requires_grad:
        loss.backward()
    loss = loss.detach()
    if runtime is not None and runtime.world > 1:
        runtime.add_up([loss, *(p.grad for p in network.parameters() if p.grad is not None)])
    return loss


def not_finite(network: torch.nn.Module) -> list[str]:
    """Names of parameters whose gradient has NaN or infinity."""
    found = [(name, p.grad) for name, p in network.named_parameters() if p.grad is not None]
    norms = torch._foreach_norm([gradient for _, gradient in found]) if found else []
    if not found or bool(torch.stack(list(norms)).isfinite().all()):
        return []
    return [name for name, gradient in found if not bool(gradient.isfinite().all())]


def meta_train(
    config: MetaConfig, path: Path, report: Report, *, resume: bool = False, restart: bool = False
) -> schema.MetaResults | schema.Stopped:
    """Meta-train in a run folder, from the start or from its last checkpoint.

    Args:
        config: the settings.
        path: the run folder; new, unless ``resume``.
        report: called after every meta-step.
        resume: go on from the newest whole checkpoint in ``path``, or begin if there is no run.
        restart: set aside what is in ``path``, under a new name within, and begin.

    Returns:
        The results, or the signal that ended the run before its time; the same call with ``resume`` goes on.

    Raises:
        ConfigError: for settings, tasks or a folder that do not fit, before anything is written.
        RunError: the run cannot go on, such as for a full disk; the last checkpoint is intact.
    """
    settings = config.model_dump(exclude_none=True)
    if resume and not restart:
        check_resume_in(path, settings, type(config), harmless=HARMLESS, growing=GROWING)
    with (
        joined(config.run.device, threads=config.run.threads) as runtime,
        Stopper() as stopper,
        failures_explained(path, runtime),
    ):
        began = time.perf_counter()
        tasks = load_tasks(config)
        tasks.check("validation", config.task.tasks)
        if config.meta.meta_batch_size < runtime.world:
            raise ConfigError(
                f"meta_batch_size: expected at least a lifetime for each of the {runtime.world} processes, got "
                f"{config.meta.meta_batch_size}; start fewer processes or give more lifetimes"
            )
        arm = MetaTraining(MetaNetwork(config, tasks.shape).to(runtime.device), tasks, runtime)
        run = config.run
        times = Times(config.meta.meta_steps, run.eval_every, log=run.log_every, save=run.checkpoint_every)
        loop = Loop([arm], times, runtime, stop=stopper, report=report, line=arm.line)
        if run.log and runtime.leads:
            loop.listen = Loggers(run.log, path, [(config.learner, settings)])
        start = schema.Start(
            "meta",
            (schema.Arm(config.learner, run.seed),),
            times.steps,
            parameters=sum(p.numel() for p in arm.network.parameters()),
        )
        try:
            if signal := loop.run_in(path, start, settings, keep=run.keep, resume=resume, restart=restart):
                return schema.Stopped(loop.step, signal)
            failed = loop.failed.get(0)
            results = schema.MetaResults(
                "meta",
                "diverged" if failed else "finished",
                loop.step,
                reason=failed.reason if failed else None,
                validation=None if arm.score is None else abs(arm.score),
                skipped=arm.skipped,
                skipped_by_parameter=dict(arm.by_parameter),
                seconds=time.perf_counter() - began,
            )
            loop.end(results)
            return results
        finally:
            loop.close()


def load_run(
    path: Path, which: Literal["newest", "best"], root: str | None = None
) -> tuple[MetaNetwork, Tasks, checkpoint.Checkpoint]:
    """The network of a run on the CPU, its tasks, and the checkpoint it came from.

    Args:
        path: the run's folder.
        which: checkpoint, the "newest" whole one or the "best" on validation tasks.
        root: folder of the data in place of the one in the settings.

    Raises:
        ConfigError: there is no such run.
        StateError: it has no whole checkpoint, or one that does not fit the network of its settings.
        RunError: its weights are not finite.
    """
    config, folder = load_config(path, root), path / "checkpoints"
    found = checkpoint.load_last(folder) if which == "newest" else checkpoint.load_best(folder)
    checkpoint.require_finite(found.model, found.path)
    tasks = load_tasks(config)
    network = MetaNetwork(config, tasks.shape)
    checkpoint.put_into(network, found.model, found.path)
    return network, tasks, found
