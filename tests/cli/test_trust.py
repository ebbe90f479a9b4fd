"""Folders and storages of somebody else: no command runs code that they name, without consent.

What would run is a module that writes a marker as it is imported, and again as its function is called.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import pickle
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
import tomli_w
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from backroads.cli import main
from backroads.plasticity.settings import MetaConfig
from backroads.runs.groups import Group, groups
from backroads.runs.manifest import Manifest
from backroads.runs.settings import read_toml
from backroads.search.run import prepare
from backroads.search.settings import SearchSettings, resolve
from backroads.search.storage import storage_at
from backroads.search.study import SETTINGS
from backroads.train.comparison import CompareSettings
from backroads.train.settings import TrainSettings

HOSTILE = "hostile_module:make"
TINY = ["--epochs", "1", "--model-options.width", "2", "--limit", "64", "--batch-size", "32", "--threads", "1"]
META = ["--tasks", "2", "--steps-per-task", "2", "--batch-size", "2", "--hidden", "4", "--eval-lifetimes", "1"]
META += ["--meta-steps", "2", "--threads", "1"]


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is there once the hostile module has run, in this process or one that it starts."""
    path, place = tmp_path / "marker", tmp_path / "modules"
    place.mkdir()
    touch = f"__import__('pathlib').Path({str(path)!r}).touch()"
    (place / "hostile_module.py").write_text(f"{touch}\n\ndef make(*args, **options):\n    {touch}\n")
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PYTHONPATH", str(place), prepend=":")
    yield path
    sys.modules.pop("hostile_module", None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind of run: run, comparison, study, meta."""
    folder = tmp_path_factory.mktemp("made")
    assert call("train", *TINY, "--out", str(folder / "run")) == 0
    rules = ["--rules", "symmetric_alignment", "--seeds", "0"]
    assert call("compare", *rules, *TINY, "--out", str(folder / "comparison")) == 0
    searched = ["--rules", "symmetric_alignment", "--methods", "local_errors", "--vary", "learning_rate"]
    assert call("search", *searched, "--trials", "2", *TINY, "--out", str(folder / "study")) == 0
    assert call("meta", "train", *META, "--out", str(folder / "meta")) == 0
    return folder


@pytest.fixture
def folders(made: Path, tmp_path: Path) -> Path:
    """Those folders, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "folders"))


VERBS: dict[str, tuple[str, type[Group], Callable[[Path], list[str]]]] = {
    # command: the kind of folder, what its settings are, the words
    "eval": ("run", TrainSettings, lambda f: ["eval", str(f)]),
    "eval a split": ("run", TrainSettings, lambda f: ["eval", str(f), "--split", "validation"]),
    "export": ("run", TrainSettings, lambda f: ["export", str(f), "--no-program", "--out", str(f / "e")]),
    "report": ("run", TrainSettings, lambda f: ["report", str(f)]),
    "train": ("run", TrainSettings, lambda f: ["train", "--resume", "--out", str(f)]),
    "compare": ("comparison", CompareSettings, lambda f: ["compare", "--resume", "--out", str(f)]),
    "report a comparison": ("comparison", CompareSettings, lambda f: ["report", str(f)]),
    "eval a comparison": ("comparison", CompareSettings, lambda f: ["eval", str(f)]),
    "search status": ("study", SearchSettings, lambda f: ["search", "status", str(f)]),
    "search report": ("study", SearchSettings, lambda f: ["search", "report", str(f)]),
    "search best": ("study", SearchSettings, lambda f: ["search", "best", str(f)]),
    "search promote": ("study", SearchSettings, lambda f: ["search", "promote", str(f), "--top", "1", "--seeds", "1"]),
    "search reap": ("study", SearchSettings, lambda f: ["search", "reap", str(f)]),
    "report a search": ("study", SearchSettings, lambda f: ["report", str(f)]),
    "transfer": (
        "study",
        SearchSettings,
        lambda f: ["transfer", str(f), "--models", "mlp", "--top", "1", "--seeds", "1"],
    ),
    "worker": ("study", SearchSettings, lambda f: ["worker", f"sqlite:///{f}/study.db", "search"]),
    "meta train": ("meta", MetaConfig, lambda f: ["meta", "train", "--resume", "--out", str(f)]),
    "meta eval": ("meta", MetaConfig, lambda f: ["meta", "eval", str(f), "--lifetimes", "1"]),
    "meta analyse": ("meta", MetaConfig, lambda f: ["meta", "analyse", str(f), "--lifetimes", "1", "--probes", "1"]),
    "meta report": ("meta", MetaConfig, lambda f: ["meta", "report", str(f)]),
}


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Wherever a folder says its settings: its TOML, the manifests of its checkpoints, its database."""
    (folder / "config.toml").write_text(tomli_w.dumps(settings))
    for path in folder.glob("checkpoints/*/manifest.json"):
        seal(path, settings=settings)
    if (folder / "study.db").is_file():
        with storage_at(f"sqlite:///{folder / 'study.db'}") as storage:
            number = storage.get_study_id_from_name("search")
            storage.set_study_user_attr(number, SETTINGS, json.dumps(settings))


def seal(path: Path, **changes: Any) -> None:
    """Change fields of a manifest, with a checksum that fits."""
    said = {name: value for name, value in json.loads(path.read_text()).items() if name != "manifest_sha256"}
    path.write_text(Manifest(**{**said, **changes}).as_json())


def hostile(schema: type[Group], settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings with an import path in one field after the other, in every shape that the field may have."""
    for table, group in groups(schema).items():
        for name, field in group.model_fields.items():
            kind = str(field.annotation)
            shapes: list[Any] = [HOSTILE]
            if "dict" in kind:
                shapes = [{"a": HOSTILE}, {"a": {"b": HOSTILE}}, {HOSTILE: HOSTILE}, {"backprop": {"rule": HOSTILE}}]
            elif "list" in kind:
                shapes = [[HOSTILE]]
            elif "str" not in kind and "Literal" not in kind:
                assert not get_args(field.annotation) or "int" in kind or "float" in kind
                continue  # a number or truth value
            for shape in shapes:
                own = {key: value for key, value in settings.get(table, {}).items() if key != name}
                yield f"{table}.{name} = {shape}", {**settings, table: {**own, name: shape}}
    for flag in ("model", "data", "rule", "method"):  # a flag's name in place of its table
        yield flag, {**{key: value for key, value in settings.items() if key != flag}, flag: HOSTILE}


QUICK = ("eval", "worker")  # the others repeat what these do


@pytest.mark.parametrize(
    "verb", [verb if verb in QUICK else pytest.param(verb, marks=pytest.mark.slow) for verb in VERBS]
)
def test_no_field_of_a_folders_settings_runs_code(verb: str, folders: Path, marker: Path) -> None:
    kind, schema, words = VERBS[verb]
    folder = folders / kind
    count = 0
    changed = hostile(schema, read_toml(folder / "config.toml"))
    if "report" in words(folder):  # draws for a second and builds nothing: a few will do
        changed = itertools.islice(changed, 0, None, 20)
    for what, settings in changed:
        write_settings(folder, settings)
        call(*words(folder))
        assert not marker.exists(), what
        assert "hostile_module" not in sys.modules, what
        count += 1
    assert count


@pytest.mark.parametrize("verb", [verb for verb in VERBS if "meta" not in verb and verb != "eval a comparison"])
def test_a_named_model_is_refused_by_name_and_the_folder_is_as_it_was(
    verb: str, folders: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, _, words = VERBS[verb]
    folder = folders / kind
    settings = read_toml(folder / "config.toml")
    write_settings(folder, {**settings, "model": {"name": HOSTILE, "options": {}}})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".db" not in path.name}
    capsys.readouterr()
    status = call(*words(folder))
    if words(folder)[0] == "report":  # builds nothing: it shows the name
        assert status == 0
    else:
        assert status == 2
        said = capsys.readouterr().err
        assert f"model.name = '{HOSTILE}'" in said
        assert "--trust" in said
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".db" not in path.name}
        assert after == before
    assert not marker.exists()


@pytest.mark.parametrize("verb", ["eval", "export", "train", "compare", "search promote", "transfer", "worker"])
def test_with_consent_it_runs(verb: str, folders: Path, marker: Path) -> None:
    """The same command with --trust imports the module, or the tests above could not fail."""
    kind, _, words = VERBS[verb]
    folder = folders / kind
    settings = read_toml(folder / "config.toml")
    if verb == "worker":  # one trial more, which the worker will train
        settings["search"]["trials"] += 2
    write_settings(folder, {**settings, "model": {"name": HOSTILE, "options": {}}})
    call(*words(folder), "--trust")
    assert marker.exists()


def test_a_path_on_the_command_line_has_consent(folders: Path, marker: Path) -> None:
    settings = read_toml(folders / "run" / "config.toml")
    write_settings(folders / "run", {**settings, "model": {"name": HOSTILE, "options": {}}})
    assert call("train", "--resume", "--out", str(folders / "run"), "--data", "mnist", "--root", "/nowhere") == 2
    assert not marker.exists()  # another flag is no consent
    call("train", "--resume", "--out", str(folders / "run"), "--model", HOSTILE)
    assert marker.exists()


def test_a_file_of_settings_that_the_user_names_has_consent(tmp_path: Path, marker: Path) -> None:
    (tmp_path / "mine.toml").write_text(f'model = "{HOSTILE}"\n')
    call("train", *TINY, "--config", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "new"))
    assert marker.exists()


@pytest.mark.parametrize("verb", ["eval", "export", "train", "search promote", "worker"])
@pytest.mark.parametrize("option", ["weights", "pretrained", "checkpoint_path", "pretrained_cfg"])
def test_options_that_load_weights_are_refused(
    verb: str, option: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, _, words = VERBS[verb]
    settings = read_toml(folders / kind / "config.toml")
    write_settings(folders / kind, {**settings, "model": {"name": "torchvision:resnet18", "options": {option: "x"}}})
    assert call(*words(folders / kind)) == 2
    assert f"model.options.{option}, which downloads or reads a file" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["search best", "search promote", "search report", "search status", "transfer"])
@pytest.mark.parametrize("group", ["local_errors", "symmetric_alignment"])
def test_values_of_trials_in_a_database_name_nothing(verb: str, group: str, folders: Path, marker: Path) -> None:
    """Settings that the search does not vary are not taken from a trial, whatever it says."""
    _, _, words = VERBS[verb]
    study = folders / "study"
    with storage_at(f"sqlite:///{study / 'study.db'}") as storage:
        opened = optuna.load_study(study_name=f"search/{group}", storage=storage)
        params: dict[str, Any] = {"learning_rate": 0.1, "model": HOSTILE}
        kinds: dict[str, Any] = {name: CategoricalDistribution((value,)) for name, value in params.items()}
        kinds["learning_rate"] = FloatDistribution(0.01, 1.0, log=True)
        trial = create_trial(state=TrialState.COMPLETE, value=1.0, params=params, distributions=kinds)
        opened.add_trial(trial)
    settings = read_toml(study / "config.toml")
    write_settings(study, {**settings, "search": {**settings["search"], "trials": 20}})
    call(*words(study))
    assert not marker.exists()
    if verb == "search best":
        best = tomllib.loads((study / "best.toml").read_text())
        assert best["model"]["name"] == "digits_conv"
        assert best["data"]["name"] == "digits"


@pytest.mark.slow
def test_local_workers_have_the_consent_of_the_search_that_starts_them(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY[:2], *TINY[4:8]]  # without an option of the model
    call("search", "--model", HOSTILE, "--trials", "1", *words, "--out", str(tmp_path / "s"))
    log = (tmp_path / "s" / "worker-0.log").read_text()
    assert "--trust" not in log
    assert marker.exists()


@pytest.mark.parametrize("group", ["../../best", "..", "/tmp/x", "", "symmetric_alignmen"])
def test_a_group_that_the_search_does_not_have_is_no_file(
    group: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(made.rglob("*"))
    assert call("search", "best", str(made / "study"), f"--group={group}") == 2
    assert "expected a rule, subset or method of this search" in capsys.readouterr().err
    assert [path for path in sorted(made.rglob("*")) if ".db-" not in path.name] == [
        path for path in before if ".db-" not in path.name
    ]


# -- storages that a folder names --------------------------------------------------------------------------------------

STUDY_VERBS = [verb for verb in VERBS if VERBS[verb][0] == "study" and verb not in ("worker", "report a search")]


@pytest.mark.parametrize("verb", STUDY_VERBS)
@pytest.mark.parametrize(
    "storage",
    [
        "sqlite:////{elsewhere}/study.db",
        "journal:{elsewhere}/study.log",
        "journal:../elsewhere/study.log",
        "postgresql://me:open-sesame@127.0.0.1:1/db",
        "a link",
    ],
)
def test_a_storage_outside_of_the_folder_is_not_opened(
    verb: str, storage: str, folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, elsewhere = folders / "study", folders / "elsewhere"
    elsewhere.mkdir()
    if storage.startswith("postgresql"):
        pytest.importorskip("psycopg")
    if storage == "a link":
        (study / "study.db").rename(elsewhere / "study.db")
        (study / "study.db").symlink_to(elsewhere / "study.db")
    else:
        settings = read_toml(study / "config.toml")
        text = storage.format(elsewhere=str(elsewhere).lstrip("/") if "sqlite" in storage else elsewhere)
        (study / "config.toml").write_text(tomli_w.dumps({**settings, "study": {"storage": text}}))
    monkeypatch.setenv("PGPASSWORD", "")
    opened: list[str] = []
    monkeypatch.setattr("backroads.search.run.storage_at", lambda url, **_: opened.append(url))
    before = sorted(folders.rglob("*"))
    assert call(*VERBS[verb][2](study)) == 2
    said = capsys.readouterr().err
    assert "expected a storage within" in said
    assert "--storage" in said
    assert "elsewhere" in said or "postgresql://me@127.0.0.1:1/db" in said
    assert "open-sesame" not in said
    assert not opened
    assert sorted(folders.rglob("*")) == before


@pytest.mark.parametrize("how", [["--trust"], ["--storage", "journal:../elsewhere/study.log"]])
def test_a_storage_that_is_named_or_trusted_is_opened(how: list[str], tmp_path: Path) -> None:
    storage = "journal:../elsewhere/study.log"
    prepare(resolve({"epochs": 1, "trials": 1, "storage": storage}), tmp_path / "study")
    assert (tmp_path / "elsewhere" / "study.log").is_file()
    assert call("search", "status", str(tmp_path / "study")) == 2
    assert call("search", "status", str(tmp_path / "study"), *how) == 0


def test_a_journal_within_the_folder_needs_no_consent(tmp_path: Path) -> None:
    prepare(resolve({"epochs": 1, "trials": 1, "storage": "journal:logs/study.log"}), tmp_path / "study")
    assert call("search", "status", str(tmp_path / "study")) == 0


def test_settings_of_a_manifest_alone_are_a_folders_settings(
    folders: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_toml(folders / "run" / "config.toml")
    write_settings(folders / "run", {**settings, "model": {"name": HOSTILE, "options": {}}})
    (folders / "run" / "config.toml").unlink()
    assert call("train", "--resume", "--out", str(folders / "run")) == 2
    assert "--trust" in capsys.readouterr().err
    assert not marker.exists()


# -- files that would run code if they were read as something else than data -------------------------------------------


class Touch:
    """Pickled, it touches a file when it is read back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (exec, (f"__import__('pathlib').Path({str(self.path)!r}).touch()",))


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_no_file_of_a_folder_is_unpickled(verb: str, made: Path, tmp_path: Path, marker: Path) -> None:
    """Each file of a folder in turn is a pickle; checksums in manifests fit."""
    kind, _, words = VERBS[verb]
    content = pickle.dumps(Touch(marker))
    names = [path.relative_to(made / kind) for path in (made / kind).rglob("*") if path.is_file()]
    beside = {"study": ["transfer.json", "promote.json"], "meta": ["evaluation.json", "analysis.json"]}
    # A database that is none is waited for; it has a test of its own below.
    for name in {*names, *map(Path, beside.get(kind, []))} - {Path("study.db")}:
        folder = Path(shutil.copytree(made / kind, tmp_path / "copy"))
        (folder / name).write_bytes(content)
        manifest = (folder / name).parent / "manifest.json"
        if manifest.is_file() and name.name != "manifest.json":
            sums = json.loads(manifest.read_text())["sha256"]
            seal(manifest, sha256={**sums, name.name: hashlib.sha256(content).hexdigest()})
        main_or_error(words(folder))
        assert not marker.exists(), name
        shutil.rmtree(folder)
    pickle.loads(content)
    assert marker.exists()  # it would have


def main_or_error(words: list[str]) -> None:
    """Run a command; how it fails on damaged files is not asked here."""
    with contextlib.suppress(SystemExit, Exception):
        main(words)


@pytest.mark.parametrize("name", ["study.db", "study.db-wal"])
def test_a_database_is_not_unpickled(name: str, made: Path, tmp_path: Path, marker: Path) -> None:
    study = Path(shutil.copytree(made / "study", tmp_path / "study"))
    (study / name).write_bytes(pickle.dumps(Touch(marker)))
    with contextlib.suppress(Exception), storage_at(f"sqlite:///{study / 'study.db'}", patience=0.1) as storage:
        storage.get_all_studies()
    assert not marker.exists()


def test_a_journal_is_read_as_lines_of_json(tmp_path: Path, marker: Path) -> None:
    study = tmp_path / "study"
    prepare(resolve({"epochs": 1, "trials": 1, "storage": "journal:study.log"}), study)
    with (study / "study.log").open("ab") as file:
        file.write(pickle.dumps(Touch(marker)) + b"\n")
    main_or_error(["search", "status", str(study)])
    assert not marker.exists()


def test_arrays_of_a_foreign_data_set_are_not_unpickled(folders: Path, tmp_path: Path, marker: Path) -> None:
    import numpy as np

    bad = np.array([Touch(marker)], dtype=object)
    np.savez(tmp_path / "bad.npz", train_x=bad, train_y=bad, test_x=bad, test_y=bad)
    settings = read_toml(folders / "run" / "config.toml")
    write_settings(folders / "run", {**settings, "data": {"name": f"npz:{tmp_path / 'bad.npz'}"}})
    assert call("eval", str(folders / "run")) == 2
    assert not marker.exists()


def test_no_program_is_started_to_read_an_image(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow goes by the content and not by the name, and gives PostScript to Ghostscript, an interpreter."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    for split, kind, number in itertools.product(("train", "test"), "ab", range(4)):
        path = tmp_path / "images" / split / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(eps)
    assert call("train", *TINY, "--data", f"folder:{tmp_path / 'images'}", "--out", str(tmp_path / "new")) == 2
    assert not marker.exists()


def test_formulas_and_names_in_a_report_are_text(folders: Path, marker: Path) -> None:
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}<script>alert(1)</script>"
    events = folders / "run" / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    lines[0]["arms"][0] |= {"name": HOSTILE, "formulas": {template: code}}
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert call("report", str(folders / "run")) == 0
    page = (folders / "run" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "{{ &#39;&#39;.__class__" in page or "__mro__" not in page
    assert not marker.exists()
