"""The loop of every run: read this first. Arms take steps side by side, and an interrupted run can be resumed.

A run trains one or more *arms*: a training and a meta-training have one, a comparison one for each rule or method and
seed. All arms take a step before any takes the next one, in rotating order, so that the times of their steps are
measured under the same conditions. What an arm does in step n follows from its settings and n alone; a checkpoint
therefore needs weights, optimisers and counters only, and a run that was killed and went on ends with the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from backroads.errors import ConfigError, DivergedError, RunError
from backroads.runs import checkpoint
from backroads.runs.arm import Arm
from backroads.runs.environment import environment
from backroads.runs.folder import CONFIG, RESTART, RESULTS, RunFolder
from backroads.runs.manifest import steps_in
from backroads.runs.progress import Progress, Report
from backroads.runs.runtime import Runtime, is_lost_process
from backroads.runs.schema import Diverged, Event, Resumed, Saved, Start, Stopped
from backroads.runs.settings import differences


@dataclasses.dataclass(frozen=True)
class Times:
    """When what happens, in steps. A fraction counts as reached with the first whole step after it; None is never.

    Attributes:
        steps: of each arm, in all. evaluate, log, readings, save: steps between two evaluations, lines of the log,
            readings, and checkpoints; a checkpoint is written after each evaluation too.
    """

    steps: int
    evaluate: float
    log: float | None = None
    readings: float | None = None
    save: float | None = None


@contextlib.contextmanager
def failures_explained(path: Path, runtime: Runtime) -> Iterator[None]:
    """Turn a full disk or a lost process into a RunError that says what is left in the run's folder ``path``."""
    try:
        yield
    except BrokenPipeError:  # of what was printed
        raise
    except OSError as error:
        last = checkpoint.load_newest(path / "checkpoints")[0]
        kept = f"the checkpoint of step {last.manifest.step} is intact, go on with --resume" if last else "none saved"
        raise RunError(f"{error.strerror or error}: {error.filename or path}; {kept}") from error
    except RuntimeError as error:
        if runtime.world == 1 or not is_lost_process(error):
            raise
        raise RunError(
            "another process of this run was lost; the last checkpoint is intact, start all processes again "
            f"with --resume ({str(error).splitlines()[0]})"
        ) from error


class Loop:
    """Takes the steps of a run.

    Args:
        arms: what is trained. times: when what happens.
        runtime: this process among its peers.
        stop: number of a signal that came, 0 for none; asked after every step.
        report: called with the progress after every step.
        line: what to say after an evaluation, given the steps done; None for nothing.
        evaluated: called after every evaluation but the one before training, with the steps done; it may raise to end
            the run.

    Attributes:
        listen: called with (number of the arm, event) for every event; if it has a ``close``, that ends it.
        step: steps done by each arm. failed: why arms ended before the others, by number.
        resumed_from: the step at which the run was resumed, and how many arms had failed by then; None for a run from
            the start.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        times: Times,
        runtime: Runtime,
        *,
        stop: Callable[[], int] = lambda: 0,
        report: Report = lambda progress: None,
        line: Callable[[int], str | None] = lambda step: None,
        evaluated: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.arms, self.times, self.runtime = arms, times, runtime
        self.stop, self.report, self.line, self.evaluated = stop, report, line, evaluated
        self.listen: Callable[[int, Event], None] = lambda arm, event: None
        self.step = 0
        self.failed: dict[int, Diverged] = {}
        self.resumed_from: tuple[int, int] | None = None
        self.folder: RunFolder | None = None
        self._settings: dict[str, Any] = {}
        self._keep = 1
        self._logged_at, self._logged_step = time.perf_counter(), 0
        for number, arm in enumerate(arms):
            arm.record = functools.partial(self._record, number)

    def run_in(
        self,
        path: Path,
        start: Start,
        settings: dict[str, Any],
        *,
        keep: int = 1,
        resume: bool = False,
        restart: bool = False,
    ) -> int:
        """Run in a folder, from the start or from its newest whole checkpoint.

        Args:
            path: the folder. start: the first event. settings: of the run, as TOML data.
            keep: checkpoints to keep, beside the best.
            resume: go on from the newest whole checkpoint, or begin if there is no run, or one that was killed before
                it wrote a checkpoint: its files are then set aside.
            restart: begin, whatever is there is set aside.

        Returns:
            The signal that ended the run before its time, 0 for none. Call :meth:`close` afterwards.

        Raises:
            ConfigError: there is something in the folder that this run cannot go on from; nothing was changed.
            RunError: another process is running in the folder.
        """
        self._settings, self._keep = settings, keep
        found: checkpoint.Checkpoint | None = None

        def opened() -> str | None:
            """The name of the checkpoint to go on from."""
            nonlocal found
            self.folder = RunFolder(path)
            found = self._find() if resume and not restart and self.folder.has_run else None
            if found is not None:
                return found.path.name
            if self.folder.has_run and (resume or restart):
                moved = self.folder.set_aside()
                self._report(f"began anew: what was in {path} is now in {moved}")
            self.folder.begin(settings, environment())
            return None

        name = self.runtime.led(opened)
        if name is not None:
            self._go_on(found or checkpoint.load(path / "checkpoints" / name))
        else:
            self._record(0, start)
            self._for_each(lambda arm: arm.read(0))
            self._evaluate()
            self._save(evaluated=True)
        return self.run()

    def run(self) -> int:
        """Take the steps that are left; returns the signal that ended the run before its time, 0 for none."""
        while self.step < self.times.steps and self._active():
            if signal := self._advance():
                return signal
        return 0

    def close(self) -> None:
        """Close the files that are open."""
        opened: list[Any] = [self.folder, self.listen]
        for one in opened:
            if hasattr(one, "close"):
                one.close()

    # -- the loop -------------------------------------------------------------------------------------------------

    def _advance(self) -> int:
        """One step of every arm, and what is due after it; the signal that ends the run, 0 for none."""
        times, n = self.times, len(self.arms)
        first = self.step % n  # no arm always comes first
        for number in [*range(first, n), *range(first)]:
            if number not in self.failed:
                self._guarded(number, lambda arm: arm.step(self.step))
            self._report(None, self.step * n + (number - first) % n + 1)
        if not self._active():
            return 0
        self.step += 1
        last = self.step == times.steps
        evaluate, saved = last or self._due(times.evaluate), False
        if evaluate or self._due(times.log):
            self._for_each(lambda arm: arm.log(self.step))
            self._speed()
        if self._due(times.readings):
            self._for_each(lambda arm: arm.read(self.step))
        if evaluate and self._active():
            self._evaluate()
            if self._active():
                self.evaluated(self.step)
        if evaluate or self._due(times.save):
            saved = self._save(evaluated=evaluate)
        signal = self.stop()
        if not self.runtime.any(signal != 0) or last or not self._active():
            return 0
        if not saved:
            self._save(evaluated=False)
        signal = signal or 15
        if self.folder is not None:
            self.folder.system(Stopped(self.step, signal))
        return signal

    def end(self, results: Any) -> None:
        """Write the results, unless the run had ended before and they are there."""
        ended = self.resumed_from == (self.step, len(self.failed))
        if self.folder is not None and not (ended and (self.folder.path / RESULTS).exists()):
            self.folder.results(results)

    def _due(self, every: float | None) -> bool:
        """Whether a multiple of ``every`` was reached with the last step."""
        return every is not None and math.floor(self.step / every) > math.floor((self.step - 1) / every)

    def _evaluate(self) -> None:
        self._for_each(lambda arm: arm.evaluate(self.step))
        self._report(self.line(self.step))
        self._logged_at = time.perf_counter()

    def _active(self) -> list[int]:
        return [number for number in range(len(self.arms)) if number not in self.failed]

    def _for_each(self, act: Callable[[Arm], Any]) -> None:
        for number in self._active():
            self._guarded(number, act)

    def _guarded(self, number: int, act: Callable[[Arm], Any]) -> None:
        """Let an arm act; if its numbers are not finite, it ends here."""
        try:
            act(self.arms[number])
        except DivergedError as error:
            self.arms[number].score = None
            self.failed[number] = Diverged(self.step, str(error), layer=error.layer)
            self._record(number, self.failed[number])

    # -- what is written ------------------------------------------------------------------------------------------

    def _record(self, number: int, event: Event) -> None:
        if number:
            event = dataclasses.replace(event, arm=number)  # type: ignore[call-arg]
        if self.folder is not None:
            self.folder.event(event)
        self.listen(number, event)

    def _report(self, line: str | None, done: int | None = None) -> None:
        n = len(self.arms)
        self.report(Progress(self.step * n if done is None else done, max(1, self.times.steps * n), line))

    def _speed(self) -> None:
        now, steps = time.perf_counter(), self.step - self._logged_step
        if self.folder is not None and steps:
            self.folder.system(self.arms[0].speed(self.step, steps, now - self._logged_at))
        self._logged_at, self._logged_step = now, self.step

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and state of all arms, as :meth:`restore` takes them. Called in all processes."""
        weights: dict[str, Tensor] = {}
        for number in self._active():
            own = self.arms[number].weights()
            weights |= own if len(self.arms) == 1 else {f"{number}/{name}": tensor for name, tensor in own.items()}
        failed = {str(number): dataclasses.asdict(event) for number, event in self.failed.items()}
        return weights, {"arms": [arm.state() for arm in self.arms], "failed": failed}

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Put a checkpoint back into the arms."""
        self.step = self._logged_step = found.manifest.step
        self.failed = {int(number): Diverged(**event) for number, event in found.state["failed"].items()}
        self.resumed_from = self.step, len(self.failed)
        for number in self.failed:
            self.arms[number].recall(found.state["arms"][number])
        for number in self._active():
            prefix = f"{number}/" if len(self.arms) > 1 else ""
            own = {k.removeprefix(prefix): tensor for k, tensor in found.model.items() if k.startswith(prefix)}
            self.arms[number].load(own, found.state["arms"][number])

    def _save(self, *, evaluated: bool) -> bool:
        """Write a checkpoint of this moment, unless no arm has finite weights; whether it was written."""
        self._for_each(lambda arm: arm.check(self.step))
        if not self._active():
            return False
        weights, state = self.snapshot()
        if self.folder is not None:
            began = time.perf_counter()
            state["events"] = self.folder.events_state()
            score = self.arms[0].score if evaluated and len(self.arms) == 1 else None
            checkpoint.save(self.folder.checkpoints, self.step, weights, state, score, self._settings)
            checkpoint.prune(self.folder.checkpoints, self._keep)
            self.folder.system(Saved(self.step, time.perf_counter() - began))
        return True

    def _find(self) -> checkpoint.Checkpoint | None:
        """The checkpoint to go on from, with a log that is as it was then; None if none was ever written."""
        assert self.folder is not None
        checkpoint.put_back(self.folder.checkpoints)
        found, problems = checkpoint.load_newest(self.folder.checkpoints)
        if found is not None:
            self.folder.check_events(**found.state["events"])
        elif problems or self.folder.has_saved():
            why = "; ".join(problems) or f"{self.folder.checkpoints} holds no checkpoint, and the log tells of one"
            raise ConfigError(
                f"resume: no checkpoint can be read: {why}; put them back (is a disk not mounted?), or {RESTART}"
            )
        return found

    def _go_on(self, found: checkpoint.Checkpoint) -> None:
        """Take the run up from a checkpoint. Damaged newer ones are set aside."""
        self.restore(found)
        if self.folder is None:
            return
        if not (self.folder.path / CONFIG).exists():
            self._report(f"{CONFIG} was missing, and is written again from the checkpoint")
        for setting, was, now in differences(found.manifest.settings, self._settings):
            self._report(f"{setting}: {was!r} so far, {now!r} from here on")
        self.folder.resume(self._settings, found.state["events"]["size"])
        for path in reversed(steps_in(self.folder.checkpoints)):
            if path.name == found.path.name:
                break
            checkpoint.set_aside(path)
        self.folder.system(Resumed(self.step, self.runtime.world, found.passed_over))
        for problem in found.passed_over:
            self._report(f"damaged checkpoint set aside: {problem}")
        self._report(f"going on from step {self.step}")
        checkpoint.prune(self.folder.checkpoints, self._keep)
