"""What can go wrong with a storage: it does not answer, it is full or read-only, or what is in it is damaged."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from backroads.errors import BackroadsError, ConfigError, RunError

T = TypeVar("T")
PATIENCE = 15.0  # seconds to wait for a storage whose own settings are not known yet
# By the beginning of SQLite's name of an error: these do not pass while one waits. The others do, or may.
_LASTING = {
    "SQLITE_CORRUPT": "is damaged",
    "SQLITE_NOTADB": "is damaged, or no database",
    "SQLITE_FULL": "has no space left to be written to",
    "SQLITE_READONLY": "cannot be written",
}


def check_file(path: Path, *, journal: bool) -> None:
    """Refuse the file of a storage that is missing, damaged or something else, before anything writes to it.

    Args:
        path: of the file. journal: whether it is one, or a database of SQLite.

    Raises:
        ConfigError: there is no such file. RunError: it is damaged, cut off, or no storage of Optuna's; what to do.
    """
    if not path.is_file():
        raise ConfigError(f"study: {path.parent} has no {path.name}; has the search begun?")
    if not path.stat().st_size:
        raise RunError(f"storage: {path} is empty; put its content back, or remove it to begin anew")
    with intact(str(path)):
        if journal:
            _check_journal(path)
        else:
            retrying(lambda: _check_sqlite(path), PATIENCE)


def _check_sqlite(path: Path) -> None:
    import sqlite3

    # What others have written and not yet put into the file itself is in its write-ahead log. Without one, nobody
    # writes, and SQLite need not make one only to read.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True)) as database:
        (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise ValueError(found.replace("\n", " "))
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        own = {"studies", "trials", "version_info", "alembic_version"} <= tables
        if not own or not database.execute("SELECT count(*) FROM version_info, alembic_version").fetchone()[0]:
            raise RunError(f"storage: {path} is a database, but not of Optuna's; name another file with --storage")


def _check_journal(path: Path) -> None:
    for _ in range(10):  # another process may be writing the last line
        content = path.read_bytes()
        if content.endswith(b"\n"):
            return
        time.sleep(0.1)
    whole = content.rfind(b"\n") + 1
    raise RunError(
        f"storage: the last line of {path} was cut off; put back a copy, or remove that line, one change to a trial: "
        f"truncate -s {whole} {path}"
    )


@contextlib.contextmanager
def intact(what: str) -> Iterator[None]:
    """Says in one line that a storage is damaged, where Optuna trips over what it reads.

    Args:
        what: is read.

    Raises:
        RunError: with the first line of what Optuna, or a check of ours, raised.
    """
    try:
        yield
    except BackroadsError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, RuntimeError) as error:
        text = str(error).strip().partition("\n")[0][:200]
        raise RunError(
            f"storage: {what} cannot be read: damaged, or of another version ({type(error).__name__}: {text}); nothing "
            "was changed, put back a copy"
        ) from error
    except OSError as error:
        raise RunError(f"storage: {what}: {error.strerror or error}; mend that and start again") from error


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says in one line that a folder cannot be written, because its disk is full or read-only, as RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {error.filename or folder}: {error.strerror or error}; no trial is lost, mend that and call "
            "the same command again"
        ) from error


def retrying(call: Callable[[], T], patience: float) -> T:
    """What ``call`` returns; it is called again while the database does not answer.

    Raises:
        ConfigError: the server refused the password. RunError: no answer for ``patience`` seconds, or the database is
            damaged, full or read-only.
    """
    import sqlite3

    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    away: tuple[type[Exception], ...] = (StorageInternalError, SQLAlchemyError, sqlite3.Error)
    with contextlib.suppress(ImportError):
        import psycopg

        away = (*away, psycopg.OperationalError)
    end, pause = time.monotonic() + patience, 0.05
    while True:
        try:
            return call()
        except away as error:
            text = reason_of(error)
            if (lasting := _lasting(error)) is not None:
                raise RunError(
                    f"storage: the database {lasting} ({text}); mend that or put back a copy, then start again"
                ) from None
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


def reason_of(error: BaseException) -> str:
    """What a database itself said, in one line: SQLAlchemy's own text goes on with statements and their values."""
    error = _first(error)
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _lasting(error: BaseException) -> str | None:
    """What is wrong with a database of SQLite, if that does not pass while one waits."""
    error = _first(error)
    name = getattr(error, "sqlite_errorname", "")
    if str(error).startswith("Could not decode to UTF-8") or isinstance(error, ValueError | LookupError | TypeError):
        name = "SQLITE_CORRUPT"  # a text of the database that makes no sense
    return next((words for start, words in _LASTING.items() if name.startswith(start)), None)


def _first(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
