"""No password of a storage's URL leaves it: not into files, pages, messages, logs, statements or lists of processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
import tomli_w
from optuna.trial import create_trial
from postgres import Postgres, running

from backroads.cli import main
from backroads.errors import ConfigError
from backroads.search import run, storage
from backroads.search.settings import resolve

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'backroads[postgresql]'")

HEAD, TAIL = "Xq7head", "Xq7tail"  # of every password; neither may be seen anywhere, whatever is between
BETWEEN = ["/", "#", "?", "@", ":", "%", "%41", " ", "é", "+", "&", "=", "'", '"', "\\", "//", "://", "a"]
PLACES = {
    "before the host": "{driver}://me:{word}@host:5432/db?sslmode=prefer",
    "parameter": "{driver}://me@host:5432/db?password={word}&sslmode=prefer",
}
DRIVERS = ["postgresql", "postgresql+psycopg", "postgres"]


def encoded(secret: str) -> str:
    return quote(secret, safe="")


def forms() -> list[tuple[str, str | None]]:
    """URLs, and the password that each must give; None for one that may be refused or give what follows from it."""
    found: list[tuple[str, str | None]] = []
    for k, middle in enumerate(BETWEEN):
        secret = f"{HEAD}{middle}{TAIL}"
        for n, place in enumerate(PLACES.values()):
            driver = DRIVERS[(k + n) % len(DRIVERS)]
            found.append((place.format(driver=driver, word=encoded(secret)), secret))
            found.append((place.format(driver=driver, word=secret), None))
    return found


REFUSED = [
    # other secrets than a password, and a file of passwords
    *(f"postgresql://me@host/db?sslpassword={encoded(HEAD + middle + TAIL)}" for middle in BETWEEN[:6]),
    f"postgresql://me@host/db?passfile=%2Fhome%2F{HEAD}",
    f"postgresql://me@host/db?oauth_client_secret={HEAD}",
    f"postgresql://me@host/db?scram_client_key={HEAD}",
    # nothing that libpq knows
    f"postgresql://me@host/db?passwd={HEAD}",
    f"postgresql://me@host/db?Password={HEAD}",
    f"postgresql://me@host/db?{HEAD}=1",
    f"postgresql://me@host/db?{HEAD}",
    # two at once
    f"postgresql://me:{HEAD}@host/db?password={TAIL}",
    f"postgresql://me@host/db?password={HEAD}&password={TAIL}",
    # no URL of a server: the host was forgotten; the port is too large; an end that no parser takes for one
    f"postgresql://me:{HEAD}/db",
    "postgresql://me:98765432/db",
    f"postgresql://me:{HEAD}@host:{TAIL}/db",
    f"postgresql://host:5432/db?password={HEAD}@{TAIL}",
    f"postgresql://host?password={HEAD}@{TAIL}",
    f"postgresql://me/x:{HEAD}@host/db",
    f"postgresql://me:{HEAD}%00{TAIL}@host/db",
    f"postgresql://me:{HEAD}%0A{TAIL}@host/db",
    f"postgresql://me:{HEAD}\n{TAIL}@host/db",
    f"postgresql://me:{HEAD}%E9{TAIL}@host/db",  # Latin-1
    f"postgresql://me@host/db?password={HEAD}%E9{TAIL}",
    # other kinds
    f"mysql://me:{HEAD}@host/db",
    f"mysql+pymysql://me:{HEAD} {TAIL}@host/db",
    f"postgresql+psycopg2://me:{HEAD}@host/db",
    f"POSTGRESQL://me:{HEAD}@host/db",
    f" postgresql://me:{HEAD}@host/db",
    f"sqlite://me:{HEAD}@host/db",
    f"sqlite:///study.db?password={HEAD}",
    f"sqlite:///study.db?mode=ro&key={HEAD}",
    f"sqlite:///postgresql://me:{HEAD}@host/db",
    f"journal://me:{HEAD}@host/db",
    f"journal:study.log?password={HEAD}",
    f"journal:postgresql://me:{HEAD}@host/db",
    f"me:{HEAD}@host/db",
]


def shows(text: str) -> bool:
    return any(part in text for part in (HEAD, TAIL, "98765432"))


@pytest.fixture(autouse=True)
def _no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "")  # so that it is put back


def test_there_are_enough_forms() -> None:
    assert len({url for url, _ in forms()} | set(REFUSED)) >= 70


@pytest.mark.parametrize(("url", "password"), forms())
def test_a_password_is_the_one_that_was_meant_or_the_url_is_refused(url: str, password: str | None) -> None:
    try:
        plain = storage.hide_password(url)
    except ConfigError as error:
        assert password is None, "a percent-encoded password is one that can be read"
        assert_refused(error)
        return
    raw = url.partition("me:")[2].partition("@host")[0] or url.partition("password=")[2].removesuffix("&sslmode=prefer")
    assert os.environ["PGPASSWORD"] == (unquote(raw) if password is None else password)
    assert plain == "postgresql://me@host:5432/db?sslmode=prefer"
    assert storage.without_password(plain) == (plain, None)


@pytest.mark.parametrize("url", REFUSED)
def test_other_secrets_and_what_cannot_be_told_apart_are_refused_in_one_line(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        storage.hide_password(url)
    assert_refused(refused.value)
    assert os.environ["PGPASSWORD"] == ""


def assert_refused(error: ConfigError) -> None:
    assert str(error).startswith("storage: ")
    assert "\n" not in str(error)
    assert not shows("".join(traceback.format_exception(error)))
    assert not shows(repr(error))


@pytest.mark.parametrize(
    "raw", [f"postgresql://me:{HEAD}{middle}{TAIL}@host/db" for middle in ("/", "#", ":", "%", " ", "é", "&", "a")]
)
def test_signs_that_cannot_be_mistaken_need_no_percent_code(raw: str) -> None:
    storage.hide_password(raw)
    assert os.environ["PGPASSWORD"] == raw.removeprefix("postgresql://me:").removesuffix("@host/db")


def test_a_url_without_a_password_leaves_the_one_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "own")
    for url in ("postgresql://me@host/db", "postgresql://me:@host/db", "postgresql:///db?host=%2Ftmp", "journal:x"):
        storage.hide_password(url)
        assert os.environ["PGPASSWORD"] == "own"


# -- every verb -------------------------------------------------------------------------------------------------------


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    "url", [REFUSED[0], f"postgresql://me:{HEAD}@{TAIL}@host/db", f"postgresql://me:{HEAD}@host/db"]
)
def test_a_url_in_the_wrong_place_is_not_repeated(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        *(["search", verb, url] for verb in ("status", "report", "best", "promote", "reap")),
        ["transfer", url, "--models", "mlp"],
        ["search", url],
        ["search", f"--storge={url}"],
        ["search", "--trials", url],
        ["search", "--config", url],
        ["search", "--rules", url],
        ["search", "--ranges.learning_rate", url],
        ["worker", url],
        ["worker", url, "name", "more"],
    ):
        assert call(*words) == 2
        said = capsys.readouterr()
        assert said.err.startswith("backroads: "), words
        assert not shows(said.out + said.err), words
    (tmp_path / "own.toml").write_text(tomli_w.dumps({"study": {"storage": [url]}}))
    assert call("search", "--config", "own.toml") == 2
    assert not shows(capsys.readouterr().err)
    assert [path.name for path in tmp_path.rglob("*")] == ["own.toml"]


@pytest.mark.parametrize("url", [url for url, password in forms() if password is not None][::3] + REFUSED[::8])
def test_no_verb_writes_or_prints_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a journal in place of the server, which is not there."""

    @contextlib.contextmanager
    def journal(url: str, **options: Any) -> Iterator[Any]:
        assert not shows(url)
        with opened(f"journal:{tmp_path / 'server.log'}", **options) as found:
            yield found

    opened = storage.storage_at
    monkeypatch.setattr(run, "storage_at", journal)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["backroads", "search", f"--storage={url}"])
    settings = {"rules": ["backprop"], "trials": 1, "storage": url, "workers": 0}
    refused = url in REFUSED
    if refused:
        with pytest.raises(ConfigError):
            run.prepare(resolve(settings), tmp_path / "study")
    else:
        run.prepare(resolve(settings), tmp_path / "study")
        with run.study_in(tmp_path / "study", trust=True) as client:
            client.studies["backprop"].add_trial(create_trial(value=0.5))
    for name in ("search", "other"):
        (tmp_path / "own.toml").write_text(tomli_w.dumps({"space": {"rules": ["backprop"]}, "search": {"trials": 1}}))
        words = ["search", "--config", "own.toml", "--workers", "0", "--storage", url, "--out", "study"]
        assert call(*words, *(["--seed", "1"] if name == "other" else [])) == (2 if refused or name == "other" else 0)
        for verb in ("status", "report", "best"):
            assert call("search", verb, "study", "--storage", url) == (2 if refused else 0)
    said = capsys.readouterr()
    assert not shows(said.out + said.err)
    for path in tmp_path.rglob("*"):
        assert not shows(str(path))
        assert not path.is_file() or not shows(path.read_bytes().decode(errors="replace")), path
    if not refused:
        command = json.loads((tmp_path / "study" / "environment.json").read_text())["command"]
        assert command.startswith("backroads search")
        assert "--storage=postgres" in command
        assert "report.html" in {path.name for path in (tmp_path / "study").iterdir()}


# -- a real server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running() as found:
        yield found


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("middle", "place"), [("/#?@:%", "before the host"), ("%41 é", "parameter"), ("&+='\"\\", "before the host")]
)
def test_a_server_takes_it_and_no_statement_log_or_process_shows_it(
    middle: str, place: str, server: Postgres, tmp_path: Path
) -> None:
    secret = f"{HEAD}{middle}{TAIL}"
    server.change_password(secret)
    word = encoded(secret)
    url = server.url_of(word) if place == "before the host" else server.url_of("", f"password={word}")
    own = {
        "space": {"rules": ["backprop"]},
        "search": {"trials": 1},
        "study": {"name": f"study-{ord(middle[0])}", "storage": url, "workers": 1},
        "run": {"epochs": 1, "batch_size": 512},
        "model": {"options": {"width": 2}},
    }
    (tmp_path / "own.toml").write_text(tomli_w.dumps(own))
    folder, said, seen = tmp_path / "study", tmp_path / "said", set[str]()
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "backroads", "search", "--config", "own.toml", "--out", "study"],
            cwd=tmp_path,
            stdout=out,
            stderr=out,
            env={name: value for name, value in os.environ.items() if name != "PGPASSWORD"},
        )
        while process.poll() is None:
            seen |= set(command_lines())
            time.sleep(0.1)
    assert process.returncode == 0, said.read_text()
    assert any("\0worker\0" in line and str(server.port) in line for line in seen)
    assert not [line for line in seen if shows(line)]
    files = [said, *(path for path in folder.rglob("*") if path.is_file())]
    assert {"worker-0.log", "report.html", "results.json", "best.toml"} <= {path.name for path in files}
    assert not [path for path in files if shows(path.read_bytes().decode(errors="replace"))]
    assert "INSERT INTO trials" in server.log()  # statements are logged
    assert not shows(server.log())
    stored = server.stored("SELECT value_json FROM study_user_attributes")
    assert stored
    assert not shows(str(stored))
