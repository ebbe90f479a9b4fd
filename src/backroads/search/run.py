"""Starts a search or goes on with one: makes its folder, starts workers, watches them, and ends with all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tomli_w

from backroads.errors import ConfigError, RunError
from backroads.runs.environment import environment
from backroads.runs.files import open_plain, write_atomically, write_json
from backroads.runs.folder import RESULTS
from backroads.runs.lock import LOCK, locked
from backroads.runs.progress import Progress, Report
from backroads.runs.settings import check_resume, read_run
from backroads.runs.signals import Stopper
from backroads.runs.trust import check_trusted, needs_consent
from backroads.search.faults import intact, retrying, writing
from backroads.search.process import is_gone
from backroads.search.record import settled
from backroads.search.settings import GROWING, HARMLESS, SearchSettings, resolve
from backroads.search.storage import JOURNAL, check_storage, hide_password, path_of, plain, storage_at, url_of
from backroads.search.study import StudyClient, load_search, save_search, study_names

LOOK = 0.5  # seconds between looks at the trials of up to eight groups
FAREWELL = 300.0  # seconds that workers have to end their step and leave; a second Ctrl-C does not wait for them


def prepare(config: SearchSettings, folder: Path) -> tuple[SearchSettings, str]:
    """Make a search in a folder, or find the one that is there.

    Returns:
        Its settings and the URL of its storage, both without a password.

    Raises:
        ConfigError: other settings than those of the search that is there, a folder with something else, an unknown
            rule; nothing is written then. RunError: the storage does not answer.
    """
    config.check()  # before anything is written
    config = _without_password(config)
    url = url_of(config.study.storage, folder)

    def check(old: SearchSettings) -> None:
        check_resume(old.model_dump(), config.model_dump(), harmless=HARMLESS, growing=GROWING)

    moved: str | None = None  # where the search began, if that is another storage
    if (folder / "config.toml").is_file():
        old = load_settings(folder)
        check(old)
        if old.study.storage != config.study.storage:
            moved = old.study.storage or "a file of its own"
    elif folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise ConfigError(f"out: {folder} exists, is not empty and holds no study; choose another folder")
    path, known = path_of(url), False
    if path is None or path.is_file():
        check_storage(url)
        with storage_at(url) as storage:
            known = config.study.name in study_names(storage, config.study.patience)
            if known:
                try:
                    check(load_search(storage, config.study.name)[0])
                except ConfigError as error:
                    where = f"name: {plain(url)} has a study {config.study.name!r}"
                    raise ConfigError(f"{where}; {error}, and another --name") from None
    if moved and not known:
        raise ConfigError(
            f"storage: the search in {folder} began in {moved}, and {plain(url)} has no study {config.study.name!r}; "
            f"give the storage that has it, or another --out"
        )
    if not known and (folder / RESULTS).is_file():
        raise ConfigError(
            f"storage: {folder} has the results of a search, and {plain(url)} has no study {config.study.name!r}; "
            f"put the storage back (is a disk not mounted?), or choose another --out; nothing was changed"
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "environment.json").is_file():
            write_json(folder / "environment.json", environment())
        write_atomically(folder / "config.toml", tomli_w.dumps(config.as_toml()))
    with storage_at(url) as storage:
        save_search(storage, config, folder)
    return config, url


def load_settings(folder: Path) -> SearchSettings:
    """The settings of the study in ``folder``; raises ConfigError if it holds none."""
    return _without_password(resolve(read_run(folder, "study")))


def _without_password(config: SearchSettings) -> SearchSettings:
    """The settings with the storage's password moved to the environment."""
    url = config.study.storage
    return config if url is None else resolve(config.as_toml(), {"storage": hide_password(url)})


def search(config: SearchSettings, folder: Path, report: Report) -> int:
    """Run a search to its end with ``config.study.workers`` processes on this machine.

    Args:
        config: the settings. folder: of the search, new or of the same settings. report: called with the progress, and
            a line about each trial that ended.

    Returns:
        0, or the signal that ended it before its time: the same call goes on.

    Raises:
        ConfigError: before anything is trained. RunError: all workers are gone, or the storage is, or another process
            runs a search in the folder.
    """
    with contextlib.ExitStack() as stack:
        there = folder.is_dir()
        if there:  # a second search changes nothing
            stack.enter_context(locked(folder))
        config, url = prepare(config, folder)
        if not there:
            stack.enter_context(locked(folder))
        return _search(config, url, folder, report)


def _search(config: SearchSettings, url: str, folder: Path, report: Report) -> int:
    with client_at(url, config) as client:
        for group in client.groups:  # trials of workers that died with an earlier search
            client.release(group)
        records = client.all_records()
        seen = len(settled(records))
        running = [record.process for record in records if record.outcome == "running" and record.process is not None]
        elsewhere = sorted({process.split(":")[0] for process in running if is_gone(process) is None})
        if elsewhere and url.startswith(JOURNAL):  # which has no heartbeats
            line = f"trials are running elsewhere ({', '.join(elsewhere)}); if their workers have died:"
            report(Progress(seen, config.search.trials, f"{line} backroads search reap {folder} --host HOST"))
        with Stopper() as stopper, _workers(config, url, folder) as workers:
            while True:
                done = settled(client.all_records())
                complete = [record.value or 0.0 for record in done if record.outcome == "complete"]
                best = f"; best {100 * max(complete):.2f} %" if complete else ""
                for n, record in enumerate(done[seen:], seen + 1):
                    report(Progress(n, config.search.trials, f"{record}{best}"))
                seen = len(done)
                report(Progress(seen, config.search.trials))
                if seen >= config.search.trials:
                    return 0
                if stopper():
                    return stopper()
                _check(workers, client, folder)
                time.sleep(LOOK * max(1.0, len(client.groups) / 8))


def _check(workers: dict[int, subprocess.Popen[bytes]], client: StudyClient, folder: Path) -> None:
    """Free the trials of workers that died; raises if the settings are at fault or no worker is left."""
    for number, process in list(workers.items()):
        status = process.poll()
        if status is None:
            continue
        del workers[number]
        for group in client.groups:
            client.release(group)
        log = folder / f"worker-{number}.log"
        last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        if status == 2:
            raise ConfigError(last.removeprefix("backroads: "))
        if not workers and status != 0:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise RunError(
                f"the last worker ended by {how} ({last or 'without a message'}); no finished trial is lost, the same "
                f"command goes on; see {log}"
            )


@contextlib.contextmanager
def _workers(config: SearchSettings, url: str, folder: Path) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Workers of a study by number, as processes of their own. At the end they are asked to stop, and waited for."""
    threads = str(config.run.threads)
    variables = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    started: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for number in range(config.study.workers):
            # What the user of this search named has consent.
            consent = ["--trust"] if needs_consent(config.model_dump()) else []
            words = ["worker", url, config.study.name, "--folder", str(folder), *consent]
            with open_plain(folder / f"worker-{number}.log") as log:
                log.seek(0, os.SEEK_END)
                started[number] = subprocess.Popen(
                    [sys.executable, "-m", "backroads", *words, "--parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=variables,
                    start_new_session=True,  # Ctrl-C reaches this process alone, which stops them
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


@contextlib.contextmanager
def client_at(url: str, config: SearchSettings, *, make: bool = True) -> Iterator[StudyClient]:
    """A client of the search at a URL, closed at the end.

    Args:
        url, config: of the search. make: whether what is missing in the storage is made.

    Raises:
        ConfigError, RunError: as :func:`backroads.search.storage.storage_at` and :class:`StudyClient`.
    """
    options = {"heartbeat": config.study.heartbeat, "grace": config.study.grace, "retries": config.study.retries}
    with storage_at(url, **options, patience=config.study.patience) as storage:
        with intact(f"study {config.study.name!r}"):
            client = retrying(lambda: StudyClient(storage, config, make=make), config.study.patience)
        yield client


@contextlib.contextmanager
def study_in(folder: Path, *, storage: str | None = None, trust: bool = False) -> Iterator[StudyClient]:
    """A client of the search in ``folder``.

    Args:
        folder: of the search. storage: where its trials are, in place of what its settings say.
        trust: whether its settings may name code outside of the package, which is then run, and a storage outside of
            the folder, which is then opened as this user.

    Raises:
        ConfigError: no search, or one that needs ``storage`` or ``trust``. RunError: the storage does not answer.
    """
    config = load_settings(folder)
    check_trusted(config.model_dump(), folder, trust=trust)
    url = url_of(config.study.storage if storage is None else hide_password(storage), folder)
    path = path_of(url)
    inside = path is not None and path.resolve().is_relative_to(folder.resolve())
    if storage is None and not (trust or inside):
        raise ConfigError(
            f"study: expected a storage within {folder}, and its settings name {plain(url)!r}; if that is right, give "
            "it with --storage, or give --trust (in Python storage=... or trust=True)"
        )
    check_storage(url)
    with storage_at(url) as opened:
        load_search(opened, config.study.name)
    with client_at(url, config, make=False) as client:
        yield client
