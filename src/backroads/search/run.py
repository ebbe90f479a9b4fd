"""Starts a study, or goes on with it: makes its folder, starts workers, watches, and ends with all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from backroads.errors import ConfigError, RunError
from backroads.runs.folder import write_atomically, write_json
from backroads.search.ledger import ABOUT, Ledger, outcome
from backroads.search.process import is_gone
from backroads.search.results import running, settled
from backroads.search.settings import SearchConfig, differences, resolve, to_json
from backroads.search.space import groups_of
from backroads.search.storage import hide_password, password_of, storage_at, url_of, without_password
from backroads.search.worker import FOLDER, SETTINGS
from backroads.train.config import read_toml

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

LOOK = 0.5  # seconds between looks at the study
FAREWELL = 30.0  # seconds that workers have to leave


@dataclasses.dataclass(frozen=True)
class View:
    """The study at a moment.

    Attributes:
        planned: trials. done: those settled, in the order in which they ended. new: those since the last view.
        running: those being trained. best: the best complete one. seconds: since the search was started.
    """

    planned: int
    done: list[FrozenTrial]
    new: list[FrozenTrial]
    running: list[FrozenTrial]
    best: FrozenTrial | None
    seconds: float


def view_of(trials: list[FrozenTrial], config: SearchConfig, shown: set[int], seconds: float) -> View:
    """A view of ``trials``, with those as new that are not in ``shown``."""
    done = settled(trials, config)
    complete = [trial for trial in done if outcome(trial) == "complete"]
    return View(
        planned=config.trials,
        done=done,
        new=[trial for trial in done if trial.number not in shown],
        running=running(trials, config),
        best=max(complete, key=lambda trial: trial.value or 0.0, default=None),
        seconds=seconds,
    )


def prepare(config: SearchConfig, folder: Path) -> tuple[SearchConfig, str]:
    """The study in ``folder``, made or found; its settings and the URL of its storage, without a password.

    Raises:
        ConfigError: a folder with something else, other settings than the study's, an unknown rule.
        RunError: the storage does not answer.
    """
    import optuna

    groups_of(config)  # unknown rules are said before anything is written
    if config.storage is not None:
        config = config.model_copy(update={"storage": hide_password(config.storage)})
    url = url_of(config, folder)
    settings = folder / "config.toml"
    if settings.is_file():
        old = load_settings(folder)
        found = differences(old, config)
        if found:
            raise ConfigError(
                f"out: {folder} holds a study with other settings:\n  "
                + "\n  ".join(found)
                + "\nleave them out to go on with it, or name another folder with --out"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"out: {folder} exists, is not empty and holds no study; choose another folder")
    if not url.startswith(("sqlite", "journal")):
        with storage_at(url):  # a server that is not there is said before anything is written
            pass
    folder.mkdir(parents=True, exist_ok=True)
    if not settings.is_file():
        from backroads.runs.environment import environment

        write_json(folder / "environment.json", environment(_command()))
    write_atomically(settings, tomli_w.dumps(config.model_dump(exclude_none=True)))
    with storage_at(url) as storage:
        with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
            storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], config.name)
        number = storage.get_study_id_from_name(config.name)
        known = storage.get_study_user_attrs(number).get(SETTINGS)
        found = [] if known is None else differences(resolve(json.loads(known)), config)
        if found:
            raise ConfigError(
                f"name: {without_password(url)} has a study {config.name!r} with other settings:\n  "
                + "\n  ".join(found)
                + "\nname yours otherwise, with --name"
            )
        storage.set_study_user_attr(number, SETTINGS, to_json(config))
        storage.set_study_user_attr(number, FOLDER, str(folder.resolve()))
    return config, url


def load_settings(folder: Path) -> SearchConfig:
    """The settings of the study in ``folder``; raises ConfigError if it holds none."""
    if not (folder / "config.toml").is_file():
        raise ConfigError(
            f"study: expected the folder of a study, and {folder} has no config.toml; give what --out named"
        )
    return resolve(read_toml(folder / "config.toml"))


def search(config: SearchConfig, folder: Path, show: Callable[[View], None]) -> str:
    """Run a study to its end with ``config.workers`` processes on this machine.

    Args:
        config: the settings. folder: of the study, new or of the same settings. show: told how it stands.

    Returns:
        "settled", or "stopped" by a signal: the same call goes on.

    Raises:
        ConfigError: before anything is trained. RunError: all workers are gone, or the storage is.
    """
    config, url = prepare(config, folder)
    with storage_at(url, heartbeat=config.heartbeat, grace=config.grace) as storage:
        ledger = Ledger(storage, config.name, config.trials, retries=config.retries, patience=config.patience)
        if url.startswith("sqlite"):  # all of its workers were processes of this machine
            ledger.reap(lambda trial: is_gone(trial.user_attrs[ABOUT]["worker"]) is True)
        return _watch(config, url, folder, ledger, show)


def _watch(config: SearchConfig, url: str, folder: Path, ledger: Ledger, show: Callable[[View], None]) -> str:
    from backroads.train.runtime import Stopper

    began, shown = time.monotonic(), {trial.number for trial in settled(ledger.trials(), config)}
    with Stopper() as stopper, _workers(config, url, folder) as workers:
        while True:
            view = view_of(ledger.trials(), config, shown, time.monotonic() - began)
            shown |= {trial.number for trial in view.new}
            show(view)
            if len(view.done) >= config.trials:
                return "settled"
            if stopper.signal is not None:
                return "stopped"
            _check(workers, ledger, folder)
            time.sleep(LOOK)


def _check(workers: dict[int, subprocess.Popen[bytes]], ledger: Ledger, folder: Path) -> None:
    """Free what lost workers had; raises if settings are at fault or none is left."""
    for number, process in list(workers.items()):
        status = process.poll()
        if status is None:
            continue
        del workers[number]
        mark = f":{process.pid}:"
        ledger.reap(lambda trial, mark=mark: mark in trial.user_attrs[ABOUT]["worker"])  # type: ignore[misc]
        last = _last_line(folder / f"worker-{number}.log")
        if status == 2:
            raise ConfigError(last.removeprefix("backroads: "))
        if not workers and status != 0:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise RunError(
                f"the last worker ended by {how} ({last or 'it said nothing'}); no finished trial is lost, the same "
                f"command goes on; see {folder / f'worker-{number}.log'}"
            )


@contextlib.contextmanager
def _workers(config: SearchConfig, url: str, folder: Path) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Workers of a study by number, as processes of their own; told to leave at the end, and waited for."""
    threads = str(config.threads)
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
    }
    started: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for number in range(config.workers):
            words = ["worker", url, config.name, "--number", str(number), "--folder", str(folder)]
            with (folder / f"worker-{number}.log").open("ab") as log:
                started[number] = subprocess.Popen(
                    [sys.executable, "-m", "backroads", *words, "--parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for this process, which tells them
                )
        yield started
    finally:
        everyone = list(started.values())
        for process in everyone:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        end = time.monotonic() + FAREWELL
        for process in everyone:
            try:
                process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1] if lines else ""


def _command() -> list[str]:
    """The words that repeat this process, with no password among them."""
    name = Path(sys.argv[0]).name
    words = [*(["python", "-m", "backroads"] if name == "__main__.py" else [name]), *sys.argv[1:]]
    return [_cleared(word) for word in words]


def _cleared(word: str) -> str:
    flag, equals, value = word.partition("=")
    if "://" in value and flag.startswith("--") and password_of(value):
        return flag + equals + without_password(value)
    return without_password(word) if password_of(word) else word


@contextlib.contextmanager
def study_in(folder: Path) -> Iterator[tuple[BaseStorage, SearchConfig]]:
    """The storage and the settings of the study in ``folder``; raises ConfigError, RunError."""
    config = load_settings(folder)
    url = url_of(config, folder)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        raise ConfigError(f"study: {folder} has no study.db; has the search begun?")
    with storage_at(url, heartbeat=config.heartbeat, grace=config.grace) as storage:
        try:
            storage.get_study_id_from_name(config.name)
        except KeyError:
            raise ConfigError(f"study: {without_password(url)} has none called {config.name!r}") from None
        yield storage, config
