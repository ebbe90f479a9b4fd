"""A worker: takes a trial, trains it, says how it went, takes the next, until all planned ones are settled."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backroads.errors import BackroadsError, ConfigError
from backroads.search.ledger import DIVERGED, ERROR, INTERRUPTED, Claim, Ledger, TakenAwayError
from backroads.search.settings import SearchConfig, resolve
from backroads.search.space import groups_of
from backroads.search.storage import check_name, storage_at, without_password

if TYPE_CHECKING:
    from backroads.search.desk import Desk
    from backroads.train.runtime import Runtime

SETTINGS, FOLDER = "settings", "folder"
IDLE = 0.5  # seconds between looks, while all slots are in others' hands


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a trial of this worker ended: a line for the log."""

    slot: int
    number: int
    group: str
    kind: str
    value: float | None
    seconds: float
    reason: str = ""

    def __str__(self) -> str:
        told = "" if self.value is None else f" {100 * self.value:.2f} %"
        why = f" ({self.reason})" if self.reason else ""
        return f"trial {self.slot} [{self.group}] {self.kind}{told} in {self.seconds:.1f} s{why}"


@contextlib.contextmanager
def heartbeats(ledger: Ledger, every: float) -> Iterator[Callable[[int | None], None]]:
    """A thread that gives signs of life for the trial last named, also while the storage is away for a time."""
    current: list[int | None] = [None]
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every):
            trial = current[0]
            if trial is not None:
                with contextlib.suppress(Exception):  # the next one may get through
                    ledger.beat(trial)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()

    def name(trial: int | None) -> None:
        current[0] = trial

    try:
        yield name
    finally:
        over.set()
        thread.join(timeout=5)


def load_study(url: str, name: str) -> tuple[SearchConfig, Path | None]:
    """A study's settings and folder (None if it is not on this machine); raises ConfigError, RunError."""
    with storage_at(url) as storage:
        attributes = storage.get_study_user_attrs(check_name(storage, name, without_password(url)))
    if SETTINGS not in attributes:
        raise ConfigError(f"study: {name!r} in {without_password(url)} was not made by `backroads search`")
    folder = Path(attributes.get(FOLDER, ""))
    return resolve(json.loads(attributes[SETTINGS])), folder if attributes.get(FOLDER) and folder.is_dir() else None


def work(
    url: str,
    name: str,
    *,
    number: int | None = None,
    folder: Path | None = None,
    most: int | None = None,
    parent: int | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Train trials of a study until none is left.

    Args:
        url, name: where the study is. number: this worker's, to seed its sampler; None draws one. folder: for
            checkpoints of long trials; None takes the study's, where that is on this machine. most: trials to train.
        parent: process that this worker stops with. say: told a line when a trial ends.

    Returns:
        "settled": all planned trials are; "enough": ``most`` were trained; "stopped": by a signal.

    Under torchrun all processes train one trial together, and the first one owns it.
    """
    from backroads.search.desk import Desk
    from backroads.train.runtime import Stopper, runtime
    from backroads.train.settings import TrainConfig

    leads = os.environ.get("RANK", "0") == "0"
    config, own = load_study(url, name)
    folder = folder or own
    if number is None:
        number = int.from_bytes(os.urandom(3), "little")
    base: TrainConfig = config.training()
    with (
        runtime(base) as here,
        Stopper() as stopper,
        storage_at(url, heartbeat=config.heartbeat, grace=config.grace, patience=config.patience) as storage,
    ):
        # The other processes of a trial hear from the first one.
        desk = Desk(storage, name, config, number) if leads else None

        def stop() -> bool:
            return stopper.signal is not None or (parent is not None and os.getppid() != parent)

        return _Loop(config, here, stop, desk, folder, most, say if leads else lambda _: None).run()


class _Loop:
    def __init__(
        self,
        config: SearchConfig,
        here: Runtime,
        stop: Callable[[], bool],
        desk: Desk | None,
        folder: Path | None,
        most: int | None,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.here, self.stop, self.desk = config, here, stop, desk
        self.folder, self.most, self.say = folder, most, say
        self.groups = groups_of(config)
        self.cache: dict[str, Any] = {}
        from backroads.search.trial import load_once

        load_once(config.training(), self.cache, here.device)  # what is wrong with the data is said before a trial

    def run(self) -> str:
        trained = 0
        beats = heartbeats(self.desk.ledger, self.config.heartbeat) if self.desk else contextlib.nullcontext()
        with beats as alive:
            while True:
                claim, why = self._next(trained)
                if claim is None:
                    return why
                slot, number, params = claim
                if alive is not None:
                    assert self.desk is not None
                    assert self._claim is not None
                    alive(self._claim.id)
                stopped = self._train(slot, number, params)
                if alive is not None:
                    alive(None)
                trained += 1
                if stopped:
                    return "stopped"

    _claim: Claim | None = None

    def _next(self, trained: int) -> tuple[tuple[int, int, dict[str, Any]] | None, str]:
        """The next trial, the same in all processes; or why there is none."""
        found: Any = None
        if self.desk is not None:
            found = self._ask(trained)
        found = self.here.shared(found)
        return (None, found) if isinstance(found, str) else ((found[0], found[1], found[2]), "")

    def _ask(self, trained: int) -> Any:
        assert self.desk is not None
        while True:
            if self.stop():
                return "stopped"
            if self.most is not None and trained >= self.most:
                return "enough"
            self._claim = self.desk.take()
            if self._claim is not None:
                return [self._claim.slot, self._claim.number, self._claim.params]
            if self.desk.settled():
                return "settled"
            time.sleep(IDLE)

    def _train(self, slot: int, number: int, params: dict[str, Any]) -> bool:
        """Train one trial and say how it ended; whether this worker was told to stop."""
        from backroads.search.trial import DivergedError, Hooks, PrunedError, StoppedError, load_once, run_trial

        group = self.groups[slot % len(self.groups)]
        began = time.monotonic()
        desk, claim = self.desk, self._claim
        hooks = Hooks()
        if desk is not None and claim is not None:
            hooks = Hooks(lambda e, a: desk.report(claim, e, a), self.stop)
        place = None if self.folder is None else self.folder / "trials" / f"slot-{slot:06d}"
        value: float | None = None
        why, kind = "", "complete"
        try:
            config = self.config.training(**group.settings(params, self.config.train.get("rule_options")))
            dataset = load_once(config, self.cache, self.here.device)
            value = run_trial(
                config,
                dataset,
                self.here,
                hooks,
                report_every=self.config.report_every,
                folder=None if place is None else place / f"{number:06d}",
                checkpoint_seconds=self.config.checkpoint_seconds,
            )
        except PrunedError as error:
            value, kind = error.value, "pruned"
        except DivergedError as error:
            kind, why = DIVERGED, str(error)
        except StoppedError:
            kind = INTERRUPTED
        except TakenAwayError:
            kind = "taken away"
        except BackroadsError as error:
            if self.here.world > 1:
                raise
            kind, why = ERROR, str(error)
        except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
            if self.here.world > 1:
                raise
            kind, why = ERROR, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if desk is not None and claim is not None:
            kind = self._tell(desk, claim, kind, value, why)
            self.say(str(Ended(slot, number, group.name, kind, value, time.monotonic() - began, why)))
            if place is not None and kind not in (INTERRUPTED, "taken away") and place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
        return kind == INTERRUPTED

    @staticmethod
    def _tell(desk: Desk, claim: Claim, kind: str, value: float | None, why: str) -> str:
        try:
            if kind in ("complete", "pruned"):
                assert value is not None
                desk.ledger.finish(claim, value, pruned=kind == "pruned")
            elif kind != "taken away":
                desk.ledger.fail(claim, kind, why)
        except TakenAwayError:
            # Another worker has it, or the storage had noted the end before it went away: it knows best.
            return "taken away"
        return kind
