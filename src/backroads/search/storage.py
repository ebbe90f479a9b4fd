"""Where trials are kept: SQLite in the study's folder, PostgreSQL, or a journal file; and waiting while it is away."""

from __future__ import annotations

import contextlib
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from backroads.errors import ConfigError, RunError, nearest
from backroads.extras import missing

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from backroads.search.settings import SearchConfig

T = TypeVar("T")
FILE = "study.db"
JOURNAL = "journal:"
# A worker that is stopped in the middle of a transaction must not hold the others' rows for ever.
_POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=15000 -c lock_timeout=15000 -c statement_timeout=60000"


def without_password(url: str) -> str:
    """The URL as it may be written down."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    if parts.password is None and "password=" not in parts.query:
        return url
    user = f"{parts.username}@" if parts.username else ""
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(part for part in parts.query.split("&") if not part.startswith("password="))
    return urlunsplit((parts.scheme, f"{user}{host}", parts.path, query, parts.fragment))


def password_of(url: str) -> str | None:
    """The password in the URL, if there is one."""
    if "://" not in url:
        return None
    parts = urlsplit(url)
    given = [part.partition("=")[2] for part in parts.query.split("&") if part.startswith("password=")]
    found = parts.password or (given[0] if given else None)
    return None if found is None else unquote(found)


def hide_password(url: str) -> str:
    """Move a password from the URL to where libpq looks for it, for this process and those it starts."""
    found = password_of(url)
    if found is not None:
        os.environ["PGPASSWORD"] = found
    return without_password(url)


def url_of(config: SearchConfig, folder: Path) -> str:
    """The storage of a study: the one in its settings, or SQLite in its folder."""
    if config.storage is None:
        return f"sqlite:///{(folder / FILE).resolve()}"
    if config.storage.startswith(JOURNAL):
        path = Path(config.storage.removeprefix(JOURNAL))
        return f"{JOURNAL}{(path if path.is_absolute() else folder / path).resolve()}"
    return config.storage


def open_storage(url: str, *, heartbeat: int = 10, grace: int = 60, patience: float = 120.0) -> BaseStorage:
    """The storage at ``url``; tables are made if there are none.

    Args:
        url: ``sqlite:///FILE``, ``postgresql://USER@HOST/DATABASE`` or ``journal:FILE``. heartbeat, grace: seconds.
        patience: seconds to wait for a server that does not answer.

    Raises:
        ConfigError: another kind of storage. MissingDependencyError: PostgreSQL without psycopg.
        RunError: it does not answer.
    """
    import optuna
    from optuna.storages import JournalStorage, RDBStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it says of each trial is ours to say
    if url.startswith(JOURNAL):
        path = Path(url.removeprefix(JOURNAL))
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    kind = url.partition(":")[0]
    options: dict[str, Any]
    if kind == "sqlite":
        options = {"connect_args": {"timeout": 60}}
    elif kind in ("postgresql", "postgresql+psycopg", "postgres"):
        _need_psycopg()
        url = "postgresql+psycopg" + hide_password(url)[len(kind) :]
        options = {
            "pool_pre_ping": True,
            "connect_args": {"connect_timeout": 10, "options": _POSTGRES_OPTIONS},
        }
    else:
        raise ConfigError(
            f"storage: expected sqlite:///FILE, postgresql://USER@HOST/DATABASE or journal:FILE, got "
            f"{without_password(url)!r}"
        )

    def connect() -> BaseStorage:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made = RDBStorage(url, options, heartbeat_interval=heartbeat, grace_period=grace)
        if kind == "sqlite":
            _one_writer(made)
        return get_storage(made)

    return retrying(connect, patience)


def close_storage(storage: BaseStorage) -> None:
    """Close the connections of a storage that is no longer needed."""
    backend: Any = getattr(storage, "_backend", None)
    if hasattr(backend, "engine"):
        backend.remove_session()
        backend.engine.dispose()


@contextlib.contextmanager
def storage_at(url: str, *, heartbeat: int = 10, grace: int = 60, patience: float = 15.0) -> Iterator[BaseStorage]:
    """:func:`open_storage` as a context that closes it."""
    storage = open_storage(url, heartbeat=heartbeat, grace=grace, patience=patience)
    try:
        yield storage
    finally:
        close_storage(storage)


def _need_psycopg() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise missing("psycopg", "storage on PostgreSQL") from error


def _one_writer(storage: Any) -> None:
    """Let each transaction of SQLite begin by taking the file: what it reads first still holds when it writes.

    Without this, two processes may both find a trial running and both finish it. In WAL mode a commit does not wait
    for the disk; a crash of the machine may lose the last seconds and damages nothing.
    """
    from sqlalchemy import event

    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come after the first reads
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # connections made before
    event.listen(storage.engine, "connect", on_connect)
    event.listen(storage.engine, "begin", on_begin)


def check_name(storage: BaseStorage, name: str, url: str) -> int:
    """The study's number in the storage; raises ConfigError with the nearest name if there is none."""
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        known = [study.study_name for study in storage.get_all_studies()]
        raise ConfigError(
            f"study: {url} has none called {name!r}.{nearest(name, known)} It has: {', '.join(known) or 'none'}"
        ) from None


def retrying(call: Callable[[], T], patience: float) -> T:
    """What ``call`` returns, tried again while the storage does not answer.

    Raises:
        ConfigError: it refused the password. RunError: it did not answer for ``patience`` seconds.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    end, pause = time.monotonic() + patience, 0.05
    while True:
        try:
            return call()
        except (StorageInternalError, SQLAlchemyError) as error:
            cause = error.__cause__ or error
            text = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
            if "password" in text:  # refused, or none given: waiting does not help
                raise ConfigError(
                    f"storage: {text}; give the password in PGPASSWORD, in ~/.pgpass or in the URL"
                ) from None
            if time.monotonic() > end:
                raise RunError(
                    f"the storage did not answer for {patience:.0f} s ({text}); no finished trial is lost, start again "
                    "when it is back"
                ) from None
        time.sleep(pause * (0.5 + random.random()))
        pause = min(2.0, 2 * pause)
