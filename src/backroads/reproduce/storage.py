"""Machines without a common folder divide a campaign among themselves through a PostgreSQL database.

Each keeps its own folder. A training is taken by a lock that the server holds for a connection, so that it is free
again once its process has ended in whatever way. What a training leaves behind in its run folder but for checkpoints
and pictures, a few files of text, is copied into the database and from there into all folders.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backroads import __version__
from backroads.errors import ConfigError, RunError
from backroads.extras import extra_named
from backroads.reproduce.arms import Arm
from backroads.runs.files import folder_within, write_atomically
from backroads.runs.folder import CONFIG, ENVIRONMENT, RESULTS
from backroads.runs.lock import InUseError

FILES = (CONFIG, ENVIRONMENT, "evaluation.json", "analysis.json", RESULTS)
PATIENCE = 60.0  # seconds to wait for a server that does not answer
_MAKE = """CREATE TABLE IF NOT EXISTS backroads_trainings
    (version text, training text, files jsonb NOT NULL, PRIMARY KEY (version, training))"""
_GET = "SELECT training, files FROM backroads_trainings WHERE version = %s AND training = ANY(%s)"
_PUT = "INSERT INTO backroads_trainings VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"


def checked(url: str) -> str:
    """The URL without its password, which goes to PGPASSWORD, once the server has answered and has the table.

    Raises:
        ConfigError: no URL of PostgreSQL, or the server refused the password. RunError: it does not answer, or the user
            may not make a table. MissingDependencyError: psycopg or Optuna is not installed.
    """
    with extra_named("storage on PostgreSQL"):
        from backroads.search.storage import hide_password, path_of
    url = hide_password(url)
    if path_of(url) is not None:
        raise ConfigError("storage: expected postgresql://USER@HOST/DATABASE; in a common folder none is needed")
    with _connected(url) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_key("table")])  # two would trip over each other
        connection.execute(_MAKE)
    return url


@contextlib.contextmanager
def taken(url: str, arm: Arm) -> Iterator[None]:
    """Keep a training from all other processes.

    Raises:
        InUseError: another process has it. RunError: the server does not answer.
    """
    with _connected(url) as connection:
        (free,) = connection.execute("SELECT pg_try_advisory_lock(%s)", [_key(arm.identity)]).fetchone()
        if not free:
            raise InUseError(f"{arm.name} is in the hands of another process")
        yield


def exchange(url: str, arms: Sequence[Arm], out: Path) -> None:
    """Copy what has ended here into the database, and what has ended elsewhere from there into the folder ``out``.

    Raises:
        RunError: the server does not answer, or what it has of a training is not what was put there.
    """
    from psycopg.types.json import Jsonb

    with _connected(url) as connection:
        names = [arm.identity for arm in arms]
        found = dict(connection.execute(_GET, [__version__, names]).fetchall())
        for arm in arms:
            if (end := arm.outcome(out)).done:
                if arm.identity not in found and not end.known:
                    connection.execute(_PUT, [__version__, arm.identity, Jsonb(_read(out / arm.folder))])
            elif arm.identity in found:
                _write(arm, found[arm.identity], out)


def _read(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text(encoding="utf-8") for name in FILES if (folder / name).is_file()}


def _write(arm: Arm, files: Any, out: Path) -> None:
    if (
        not isinstance(files, dict)
        or not set(files) <= set(FILES)
        or not all(isinstance(x, str) for x in files.values())
    ):
        raise RunError(f"storage: what it has of {arm.name} ({arm.identity}) is no training; remove that row")
    folder = folder_within(out, str(arm.folder))
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # results.json last: with it, a training has ended
        if name in files:
            write_atomically(folder / name, files[name])


def _key(name: str) -> int:
    """A lock's number: 64 bits with a sign."""
    return int.from_bytes(hashlib.sha256(f"{__version__} {name}".encode()).digest()[:8], "big", signed=True)


@contextlib.contextmanager
def _connected(url: str) -> Iterator[Any]:
    import psycopg

    from backroads.search.faults import reason_of, retrying
    from backroads.search.storage import connect_postgresql

    connection = retrying(lambda: connect_postgresql(url), PATIENCE)
    connection.autocommit = True  # a lock is kept by the connection, not by a transaction
    try:
        yield connection
    except psycopg.Error as error:
        raise RunError(f"storage: {reason_of(error)}; what has ended is in the folder, start again") from error
    finally:
        connection.close()
