"""A PostgreSQL server of a test's own, on a loopback port, which can be stopped and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, LiteralString

import pytest
from patience import PATIENCE

from backroads.search.faults import retrying

if TYPE_CHECKING:
    import psycopg

PASSWORD = "open-sesame-4711"


def binaries() -> Path | None:
    """The folder of ``postgres`` and ``initdb``; Debian keeps them off the PATH."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def running() -> Postgres:
    """A server, not yet started; skips the test where there is none, or no driver for it."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'backroads[postgresql]'")
    found = binaries()
    if found is None:
        pytest.skip("there is no PostgreSQL server here: install Debian's `postgresql`")
    return Postgres(found)


class Postgres:
    """A server with a user ``searcher``, who needs :data:`PASSWORD`; a context."""

    def __init__(self, bin_: Path) -> None:
        self._bin = bin_
        self._folder = Path(tempfile.mkdtemp(prefix="backroads-pg-"))
        # The server refuses to run as root.
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._password = PASSWORD
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of(PASSWORD)

    def url_of(self, password: str, query: str = "") -> str:
        """The URL with a password before the host, or, where that is empty, with parameters."""
        user = f"searcher:{password}" if password else "searcher"
        return f"postgresql://{user}@127.0.0.1:{self.port}/postgres{'?' * bool(query)}{query}"

    def change_password(self, password: str) -> None:
        """Give the user another one; from now on the server logs every statement but this one."""
        from psycopg import sql

        with self._connect() as connection:
            connection.execute("SET log_statement = 'none'")
            connection.execute(sql.SQL("ALTER ROLE searcher PASSWORD {}").format(password))
            connection.execute("ALTER ROLE searcher SET log_statement = 'all'")
        self._password = password

    def stored(self, query: LiteralString) -> list[tuple[object, ...]]:
        with self._connect() as connection:
            return connection.execute(query).fetchall()

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        import psycopg

        words = {"host": "127.0.0.1", "user": "searcher", "dbname": "postgres", "password": self._password}
        return retrying(lambda: psycopg.connect(**words, port=self.port), 30.0)  # it may be starting

    def __enter__(self) -> Postgres:
        secret = self._folder / "secret"
        secret.write_text(PASSWORD)
        if self._user is not None:
            for path in (self._folder, secret):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        words = ["-D", "data", "-U", "searcher", "-A", "scram-sha-256", "--pwfile", "secret", "--no-sync"]
        subprocess.run(
            [self._bin / "initdb", *words], check=True, capture_output=True, timeout=PATIENCE, **self._as_user()
        )
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        words = ["-D", "data", "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", *words, "-k", self._folder], stdout=log, stderr=log, **self._as_user()
            )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError((self._folder / "log").read_text())

    def stop(self) -> None:
        """At once: connections are cut, transactions that were not committed are lost."""
        if self._process is not None:
            self._process.terminate() if self._process.poll() is not None else self._process.send_signal(2)
            self._process.wait(timeout=PATIENCE)
            self._process = None

    def _as_user(self) -> dict[str, object]:
        own: dict[str, object] = {"cwd": self._folder}
        if self._user is not None:
            own |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return own
