"""Where Optuna keeps the trials: SQLite in the study's folder, PostgreSQL, or a journal file.

Passwords stay out of files, logs and the list of processes: they are taken out of the URL and given to libpq in the
environment variable PGPASSWORD.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from backroads.errors import ConfigError, RunError
from backroads.extras import missing

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

T = TypeVar("T")
FILE = "study.db"
JOURNAL = "journal:"
# A worker that is stopped in the middle of a transaction must not hold the others' rows for ever.
_POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=15000 -c lock_timeout=15000 -c statement_timeout=60000"


def without_password(url: str) -> tuple[str, str | None]:
    """A URL as it may be written down, and the password that was in it, before the host or as a parameter."""
    parts = urlsplit(url)
    query = parts.query.split("&")
    given = [part.partition("=")[2] for part in query if part.startswith("password=")]
    found = parts.password or (given[0] if given else None)
    if "://" not in url or found is None:
        return url, None
    user = f"{parts.username}@" if parts.username else ""
    host = parts.netloc.rpartition("@")[2]
    left = "&".join(part for part in query if not part.startswith("password="))
    return urlunsplit((parts.scheme, f"{user}{host}", parts.path, left, parts.fragment)), unquote(found)


def hide_password(url: str) -> str:
    """Move a password from the URL to PGPASSWORD, for this process and those it starts; returns the URL without it."""
    url, found = without_password(url)
    if found is not None:
        os.environ["PGPASSWORD"] = found
    return url


def url_of(storage: str | None, folder: Path) -> str:
    """The URL of a study's storage.

    Args:
        storage: as in the settings; None for SQLite in the folder. folder: of the study; a journal's path is relative
            to it.
    """
    if storage is None:
        return f"sqlite:///{(folder / FILE).resolve()}"
    if storage.startswith(JOURNAL):
        return f"{JOURNAL}{(folder / storage.removeprefix(JOURNAL)).resolve()}"
    return storage


def path_of(url: str) -> Path | None:
    """The file of a storage; None for a server."""
    for prefix in ("sqlite:///", JOURNAL):
        if url.startswith(prefix):
            return Path(url.removeprefix(prefix))
    return None


@contextlib.contextmanager
def storage_at(
    url: str, *, heartbeat: int = 10, grace: int = 60, retries: int = 2, patience: float = 15.0
) -> Iterator[BaseStorage]:
    """Optuna's storage at a URL, closed at the end. Tables that are missing are made.

    Args:
        url: ``sqlite:///FILE``, ``postgresql://USER@HOST/DATABASE`` or ``journal:FILE``.
        heartbeat: seconds between two heartbeats of a worker; databases only. grace: seconds without one after which
            Optuna takes a trial's worker for dead. retries: how often Optuna then queues the trial again.
        patience: seconds to wait for a server that does not answer, now and at any later time.

    Raises:
        ConfigError: another kind of URL, or the server refused the password. RunError: the server does not answer.
        MissingDependencyError: PostgreSQL without the package psycopg.
    """
    import optuna
    from optuna.storages import JournalStorage, RDBStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # we print a line for each trial ourselves
    if url.startswith(JOURNAL):
        path = Path(url.removeprefix(JOURNAL))
        path.parent.mkdir(parents=True, exist_ok=True)
        yield JournalStorage(JournalFileBackend(str(path)))
        return
    kind = url.partition("://")[0]
    if kind == "sqlite":
        connect = functools.partial(_connect_sqlite, url.removeprefix("sqlite:///"))
    elif kind in ("postgresql", "postgresql+psycopg", "postgres"):
        rest = hide_password(url).removeprefix(kind)
        url, connect = f"postgresql+psycopg{rest}", functools.partial(_connect_postgresql, f"postgresql{rest}")
    else:
        raise ConfigError(
            f"storage: expected sqlite:///FILE, postgresql://USER@HOST/DATABASE or journal:FILE, got "
            f"{without_password(url)[0]!r}"
        )
    options = {"creator": lambda: retrying(connect, patience), "pool_pre_ping": True}

    def open_database() -> RDBStorage:
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=retries)
        return RDBStorage(
            url, options, heartbeat_interval=heartbeat, grace_period=grace, heartbeat_stale_trial_callback=retry
        )

    with experimental():
        database = retrying(open_database, patience)  # another process may be making the same tables
    if kind == "sqlite":
        from sqlalchemy import event

        # A transaction of SQLite takes the file as it begins: what it reads first still holds when it writes. Without
        # this, two processes may both find a trial running and both finish it.
        event.listen(database.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        yield get_storage(database)
    finally:
        database.remove_session()
        database.engine.dispose()


def _connect_sqlite(path: str) -> Any:
    import sqlite3

    # No isolation level: sqlite3 would begin a transaction only after its first reads.
    connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    # With a write-ahead log a commit does not wait for the disk: a crash of the machine may lose the last seconds.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _connect_postgresql(url: str) -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise missing("psycopg", "storage on PostgreSQL") from error
    return psycopg.connect(url, connect_timeout=10, options=_POSTGRES_OPTIONS)


@contextlib.contextmanager
def experimental() -> Iterator[None]:
    """Silences Optuna's remark that a feature is experimental; these are, and the tests hold what we need of them."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def retrying(call: Callable[[], T], patience: float) -> T:
    """What ``call`` returns; it is called again while the database does not answer.

    Raises:
        ConfigError: the server refused the password. RunError: no answer for ``patience`` seconds.
    """
    import sqlite3

    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    away: tuple[type[Exception], ...] = (StorageInternalError, SQLAlchemyError, sqlite3.OperationalError)
    with contextlib.suppress(ImportError):
        import psycopg

        away = (*away, psycopg.OperationalError)
    end, pause = time.monotonic() + patience, 0.05
    while True:
        try:
            return call()
        except away as error:
            text = str(error.__cause__ or error).strip().partition("\n")[0] or type(error).__name__
            if "password" in text:  # refused, or none given: waiting does not help
                raise ConfigError(
                    f"storage: {text}; give the password in PGPASSWORD, in ~/.pgpass or in the URL"
                ) from None
            if time.monotonic() > end:
                raise RunError(
                    f"the storage did not answer for {patience:.0f} s ({text}); no finished trial is lost, start again "
                    "when it is back"
                ) from None
        time.sleep(pause * (0.5 + random.random()))  # not all workers at the same moment
        pause = min(2.0, 2 * pause)
