"""Where Optuna keeps the trials: SQLite in the study's folder, PostgreSQL, or a journal file.

All that is known of a storage's URL is here. A password is taken out of the URL and given to libpq, in this process and
in those that it starts, in the environment variable PGPASSWORD; any other secret in a URL is refused. So no URL that is
kept, shown or passed on has one, and no message repeats more of a URL that is refused than its kind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from backroads.errors import ConfigError
from backroads.extras import missing
from backroads.search.faults import PATIENCE, check_file, intact, retrying

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

FILE = "study.db"
SQLITE, JOURNAL = "sqlite:///", "journal:"
POSTGRESQL = ("postgresql", "postgresql+psycopg", "postgres")
# A worker that is stopped in the middle of a transaction must not hold the others' rows for ever.
_POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=15000 -c lock_timeout=15000 -c statement_timeout=60000"


def without_password(url: str) -> tuple[str, str | None]:
    """A URL as it may be written down, and the password that was in it, before the host or as a parameter.

    Raises:
        ConfigError: another kind of URL, or one whose password cannot be told for certain from the rest; one line, with
            nothing of the URL but its kind. MissingDependencyError: PostgreSQL without the package psycopg.
    """
    kind, separator, rest = url.partition("://")
    if separator and kind in POSTGRESQL:
        return _split(rest)
    path = path_of(url)
    if path is None or not path.name or re.search(r"://(?!/)|[?&]\w+=", url.removeprefix(SQLITE)) or "\0" in url:
        came = f", got {kind}://…" if separator and re.fullmatch(r"[\w+.-]+", kind) else ""
        raise ConfigError(
            f"storage: expected sqlite:///FILE, postgresql://USER@HOST/DATABASE or journal:FILE{came}; a file has "
            "neither user nor parameters"
        )
    return url, None


def _split(rest: str) -> tuple[str, str | None]:
    """The same for what follows ``postgresql://``, by SQLAlchemy's parser and libpq's own list of its parameters."""
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        from psycopg.pq import Conninfo
    except ImportError as error:
        raise missing("psycopg", "storage on PostgreSQL") from error
    before, _, after = rest.partition("@")
    query = rest.partition("?")[2]
    try:
        url = make_url(f"postgresql://{rest}")
        parse_qsl(query, strict_parsing=bool(query))
    except (ArgumentError, ValueError):  # their messages repeat parts of the URL
        url = None
    if (
        url is None
        # An @ or ? within the password: the parser would take a part of it for the host, or the host for a part of it.
        or "@" in after
        or ("@" in rest and ("?" in before) == (url.username is not None))
        or not (url.port is None or 0 < url.port < 65536)
        or re.search(r"[\0-\x1f\x7f\ufffd\ud800-\udfff]", "".join(map(str, (rest, *url, *url.query.values()))))
    ):
        raise ConfigError(
            "storage: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE?NAME=VALUE, got one that cannot be read; "
            "in a password write / ? # @ : & + % as %2F %3F %23 %40 %3A %26 %2B %25, and other signs in UTF-8"
        )
    shown = {option.keyword.decode(): option.dispchar for option in Conninfo.get_defaults()}  # "*": not to be shown
    for name in url.query:
        if name not in shown:
            raise ConfigError(
                "storage: expected parameters of libpq, such as sslmode, got one that it does not know; in a password "
                "write & as %26"
            )
        if name == "passfile" or (shown[name] and name != "password"):
            raise ConfigError(
                f"storage: {name} does not belong in a URL, which is written down; give a password before the host, in "
                "PGPASSWORD, or in a file that PGPASSFILE names"
            )
    given = [url.password, *([url.query["password"]] if "password" in url.query else [])]
    found = [password for password in given if password]
    if len(found) > 1 or isinstance(found[0] if found else "", tuple) or ("password" in url.query and "+" in query):
        raise ConfigError(
            "storage: expected one password, before the host or as a parameter, in which + is %2B and a space %20"
        )
    left = {name: value for name, value in url.query.items() if name != "password"}
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, left)
    return plain.render_as_string(hide_password=False), str(found[0]) if found else None


def hide_password(url: str) -> str:
    """Move a password from the URL to PGPASSWORD, for this process and those it starts; returns the URL without it.

    Raises:
        ConfigError, MissingDependencyError: as :func:`without_password`.
    """
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
        return f"{SQLITE}{(folder / FILE).resolve()}"
    if storage.startswith(JOURNAL):
        return f"{JOURNAL}{(folder / storage.removeprefix(JOURNAL)).resolve()}"
    return storage


def path_of(url: str) -> Path | None:
    """The file of a storage; None for a server."""
    for prefix in (SQLITE, JOURNAL):
        if url.startswith(prefix):
            return Path(url.removeprefix(prefix))
    return None


@contextlib.contextmanager
def storage_at(
    url: str, *, heartbeat: int = 10, grace: int = 60, retries: int = 2, patience: float = PATIENCE
) -> Iterator[BaseStorage]:
    """Optuna's storage at a URL, closed at the end. Tables that are missing are made.

    Args:
        url: ``sqlite:///FILE``, ``postgresql://USER@HOST/DATABASE`` or ``journal:FILE``.
        heartbeat: seconds between two heartbeats of a worker; databases only. grace: seconds without one after which
            Optuna takes a trial's worker for dead. retries: how often Optuna then queues the trial again.
        patience: seconds to wait for a server that does not answer, now and at any later time.

    Raises:
        ConfigError: another kind of URL, or the server refused the password. RunError: the server does not answer, or
            the file is damaged. MissingDependencyError: PostgreSQL without the package psycopg.
    """
    import optuna
    from optuna.storages import JournalStorage, RDBStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    url = hide_password(url)
    path = path_of(url)

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # we print a line for each trial ourselves
    if path is not None and url.startswith(JOURNAL):
        path.parent.mkdir(parents=True, exist_ok=True)
        with intact(str(path)):
            journal = JournalStorage(JournalFileBackend(str(path)))
        yield journal
        return
    if path is not None:
        connect = functools.partial(_connect_sqlite, path, min(60.0, patience))
    else:
        connect = functools.partial(connect_postgresql, url)
    options = {"creator": lambda: retrying(connect, patience), "pool_pre_ping": True}

    def open_database() -> RDBStorage:
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=retries)
        # Of the URL, the engine needs to know the kind only: the connections are ours.
        return RDBStorage(
            f"{SQLITE}{FILE}" if path is not None else "postgresql+psycopg://",
            options,
            heartbeat_interval=heartbeat,
            grace_period=grace,
            heartbeat_stale_trial_callback=retry,
        )

    with experimental(), intact(plain(url)):
        database = retrying(open_database, patience)  # another process may be making the same tables
    if path is not None:
        from sqlalchemy import event

        # A transaction of SQLite takes the file as it begins: what it reads first still holds when it writes. Without
        # this, two processes may both find a trial running and both finish it.
        event.listen(database.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        yield get_storage(database)
    finally:
        database.remove_session()
        database.engine.dispose()


def check_storage(url: str) -> None:
    """Refuse a file that is missing, damaged or no storage, before anything writes to it; a server is asked later.

    Raises:
        ConfigError, RunError: as :func:`backroads.search.faults.check_file`.
    """
    path = path_of(url)
    if path is not None:
        check_file(path, journal=url.startswith(JOURNAL))


def plain(url: str) -> str:
    """A storage in messages: the file, or the URL, which has no password."""
    path = path_of(url)
    return url if path is None else str(path)


def _connect_sqlite(path: Path, timeout: float) -> Any:
    import sqlite3

    # No isolation level: sqlite3 would begin a transaction only after its first reads.
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    # With a write-ahead log a commit does not wait for the disk: a crash of the machine may lose the last seconds.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def connect_postgresql(url: str) -> Any:
    import psycopg
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
    from sqlalchemy.engine import make_url

    dialect: Any = PGDialect_psycopg
    _, words = dialect().create_connect_args(make_url(url))
    options = f"{_POSTGRES_OPTIONS} {words.pop('options', '')}".strip()
    return psycopg.connect(**{"connect_timeout": 10, **words, "options": options})


@contextlib.contextmanager
def experimental() -> Iterator[None]:
    """Silences Optuna's remark that a feature is experimental; these are, and the tests hold what we need of them."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
