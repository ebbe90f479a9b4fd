"""A storage that is damaged, locked, full or something else: each verb says so in one line, and changes nothing."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from backroads.cli import main
from backroads.errors import RunError
from backroads.runs import files
from backroads.search import faults, storage, worker
from backroads.search.process import process_id
from backroads.search.record import ATTEMPT, OUTCOME
from backroads.search.run import prepare, study_in
from backroads.search.settings import resolve
from backroads.search.worker import work

KINDS = {"sqlite": "study.db", "journal": "study.log"}
PROCESS = "here:boot:1:1"
VERBS = ["search", "status", "report", "best", "promote", "reap", "transfer", "worker"]
SETTINGS: dict[str, Any] = {"rules": ["backprop"], "trials": 3, "workers": 0}


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience ends after a few looks."""
    monkeypatch.setattr(faults, "time", SimpleNamespace(monotonic=itertools.count(0, 5).__next__, sleep=lambda _: None))


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that is settled: a complete trial, a pruned one, and one that diverged."""
    folder = tmp_path_factory.mktemp(request.param) / "study"
    prepare(resolve(SETTINGS, {"storage": "journal:study.log"} if request.param == "journal" else {}), folder)
    own = {ATTEMPT: {"trial": 0, "number": 0, "process": process_id()}}
    why = {OUTCOME: {"kind": "diverged", "reason": "step 3: the loss is not finite"}}
    with study_in(folder) as client:
        study = client.studies["backprop"]
        study.add_trial(create_trial(value=0.5, user_attrs=own, intermediate_values={1: 0.25, 2: 0.5}))
        study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.1}))
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=why))
    return folder


@pytest.fixture
def study(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(whole, tmp_path / "study")
    monkeypatch.chdir(tmp_path)
    return Path("study")


def file_of(study: Path) -> Path:
    return next(study / name for name in KINDS.values() if (study / name).exists())


def words_of(verb: str, study: Path) -> list[str]:
    kind = storage.JOURNAL if file_of(study).suffix == ".log" else storage.SQLITE
    return {
        "search": [
            *["search", "--rules", "backprop", "--trials", "3", "--workers", "0", "--out", str(study)],
            *(["--storage", "journal:study.log"] if kind == storage.JOURNAL else []),
        ],
        "transfer": ["transfer", str(study), "--models", "mlp"],
        "worker": ["worker", f"{kind}{file_of(study).resolve()}", "search"],
    }.get(verb, ["search", verb, str(study)])


def call(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status and what was printed as an error; any other exception comes out of here."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(words)
    return int(left.value.code or 0), capsys.readouterr().err


def assert_refused(words: list[str], capsys: pytest.CaptureFixture[str], message: str = "") -> None:
    code, said = call(words, capsys)
    assert code in (1, 2), words
    assert said.startswith("backroads: ")
    assert said.count("\n") == 1, said
    assert message in said
    assert len(said) < 600


def contents(study: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in study.rglob("*") if path.is_file()}


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])


def other_database(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE own (precious TEXT)")


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": half,
    "text": lambda path: path.write_text("Not a storage at all\n" * 500),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another's database": other_database,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_verb_refuses_a_file_that_is_no_storage_and_changes_nothing(
    study: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {verb: words_of(verb, study) for verb in VERBS}
    DAMAGES[damage](file_of(study))
    before = contents(study)
    for verb in VERBS:
        if verb == "search" and damage == "a folder":
            continue  # no storage is there: a new one is made, which SQLite and the journal refuse in their own words
        assert_refused(words[verb], capsys)
        assert contents(study) == before, verb


def test_the_whole_study_is_read_by_each_verb_that_only_reads(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(words_of("search", study), capsys)[0] == 0  # it notes where the folder is now
    before = file_of(study).read_bytes()
    for verb in ("search", "status", "report", "best", "reap", "worker"):
        assert call(words_of(verb, study), capsys)[0] == 0, verb
    assert file_of(study).read_bytes() == before


def test_a_flipped_bit_anywhere_is_no_traceback_and_is_not_mended(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file_of(study)
    content, draw, refused = path.read_bytes(), random.Random(0), 0
    used = [n for n, byte in enumerate(content) if byte]
    for _ in range(60):
        damaged = bytearray(content)
        damaged[draw.choice(used)] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        code, said = call(["search", "status", str(study)], capsys)
        refused += code != 0
        assert (said == "") == (code == 0)
        assert said.count("\n") <= 1 or "differ" in said or "expected" in said, said
        assert path.read_bytes() == damaged
        for beside in study.glob("study.*-*"):
            beside.unlink()
    assert refused >= 10  # not each bit matters, and SQLite has no checksums


@pytest.mark.parametrize(
    "attributes",
    [
        {ATTEMPT: "me"},
        {ATTEMPT: {"trial": "../..", "number": 0, "process": PROCESS}},
        {ATTEMPT: {"trial": -1, "number": 0, "process": PROCESS}},
        {ATTEMPT: {"trial": 0, "number": 0, "process": "here"}},
        {ATTEMPT: {"trial": 0, "number": 0}},
        {ATTEMPT: [1]},
        {OUTCOME: {"kind": "fine", "reason": ""}},
        {OUTCOME: {"kind": "error", "reason": 3}},
        {OUTCOME: 7},
    ],
)
@pytest.mark.slow
def test_attributes_that_a_search_does_not_write_are_refused_when_they_are_read(
    study: Path, attributes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with study_in(study) as client:
        client.studies["backprop"].add_trial(create_trial(state=TrialState.FAIL, user_attrs=attributes))
    for verb in ("search", "status", "best", "worker"):
        assert_refused(words_of(verb, study), capsys, "trial 3 of backprop cannot be read")


@pytest.mark.parametrize("value", [float("inf"), -0.5, 55.0])
def test_an_accuracy_is_between_0_and_1(study: Path, value: float, capsys: pytest.CaptureFixture[str]) -> None:
    with study_in(study) as client:
        client.studies["backprop"].add_trial(create_trial(value=value))
    assert_refused(words_of("best", study), capsys, "trial 3 of backprop cannot be read")


@pytest.mark.parametrize("settings", ["{", "[]", '"text"', 3, '{"run": {"epochs": "many"}}', '{"unknown": 1}'])
def test_settings_that_make_no_sense_are_refused(
    study: Path, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with study_in(study) as client:
        found = client.storage.get_study_id_from_name("search")
        client.storage.set_study_user_attr(found, "settings", settings)
    for verb in ("status", "worker"):
        assert_refused(words_of(verb, study), capsys)


@pytest.mark.parametrize("name", ["promote.json", "transfer.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"trainings": {"a/1": {"accuracy": 7}}}', "\udc00"])
def test_a_damaged_file_of_trainings_is_said_before_anything_is_trained(
    study: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / name).write_bytes(content.encode(errors="surrogatepass"))
    before = contents(study)
    verb = "promote" if name == "promote.json" else "transfer"
    assert_refused(words_of(verb, study), capsys, f"{name} cannot be read")
    assert (study / name).read_bytes() == before[str(study / name)]


def test_a_journal_whose_last_line_was_cut_off_says_how_to_go_on(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file_of(study)
    if path.suffix != ".log":
        pytest.skip("a database ends its transactions by itself")
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    assert_refused(words_of("status", study), capsys, "truncate -s {} ".format(content[:-1].rfind(b"\n") + 1))


def test_a_database_that_another_process_holds_is_waited_for_and_then_named(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(study)
    if path.suffix != ".db":
        pytest.skip("a journal is not locked for reading")
    connect = storage._connect_sqlite
    monkeypatch.setattr(storage, "_connect_sqlite", lambda path, timeout: connect(path, 0.05))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        for verb in ("search", "status", "best", "reap", "worker"):
            assert_refused(words_of(verb, study), capsys, "database is locked")


def test_a_full_database_and_a_read_only_one_are_said_at_once(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(study)
    if path.suffix != ".db":
        pytest.skip("of SQLite")
    connect = storage._connect_sqlite

    def full(path: Path, timeout: float) -> Any:
        connection = connect(path, timeout)
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are
        return connection

    def read_only(path: Path, timeout: float) -> Any:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)

    monkeypatch.setattr(storage, "_connect_sqlite", read_only)
    assert_refused(words_of("search", study), capsys, "cannot be written")
    monkeypatch.setattr(storage, "_connect_sqlite", full)
    with study_in(study) as client, pytest.raises(RunError, match="no space left"):
        faults.retrying(lambda: client.studies["backprop"].set_user_attr("much", "x" * 10**6), 15.0)


@contextlib.contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fail)
        yield


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_results_that_cannot_be_written_are_one_line_and_leave_the_old_ones(
    study: Path, number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(words_of("search", study), capsys)[0] == 0
    before = {name: content for name, content in contents(study).items() if "study." not in name}
    for verb in ("report", "best", "search"):
        with failing(monkeypatch, number):
            assert_refused(words_of(verb, study), capsys, os.strerror(number))
    assert {name: content for name, content in contents(study).items() if "study." not in name} == before


# -- a trial that fails is settled, the worker goes on ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "MemoryError"),
        (MemoryError("unable to allocate 3 TiB"), "MemoryError: unable to allocate 3 TiB"),
        (
            RuntimeError("can't allocate memory\nmore"),
            "RuntimeError: can't",
        ),
        (RecursionError("too deep"), "RecursionError: too deep"),
    ],
    ids=str,
)
def test_a_trial_without_memory_is_settled_with_its_reason(
    study: Path, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with study_in(study) as client:
        config = resolve(client.config.as_toml(), {"trials": 6})
    _, url = prepare(config, study)
    calls = itertools.count()

    def trains(*_: object, **__: object) -> float:
        if next(calls) == 1:
            raise error
        return 0.5

    monkeypatch.setattr(worker, "run_trial", trains)
    assert work(url, "search", log=lambda _: None) == "settled"
    with study_in(study) as client:
        ended = [(record.outcome, record.reason) for record in client.all_records()[3:]]
    assert [outcome for outcome, _ in ended] == ["complete", "error", "complete"]
    assert ended[1][1].startswith(reason)
    assert "\n" not in ended[1][1]


def test_a_full_disk_is_no_fault_of_a_trial(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with study_in(study) as client:
        config = resolve(client.config.as_toml(), {"trials": 6})
    _, url = prepare(config, study)

    def trains(*_: object, **__: object) -> float:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker, "run_trial", trains)
    with pytest.raises(RunError, match="No space left on device"):
        work(url, "search", log=lambda _: None)
    with study_in(study) as client:
        assert "error" not in {record.outcome for record in client.all_records()}
