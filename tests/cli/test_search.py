"""``backroads search``, ``worker`` and ``transfer`` as a user meets them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from cli.test_cli import backroads
from optuna.trial import TrialState, create_trial
from patience import PATIENCE

from backroads.cli import main
from backroads.errors import ConfigError, RunError
from backroads.search.record import settled
from backroads.search.run import study_in

pytestmark = pytest.mark.slow  # all read one search that is killed and goes on

QUICK = ["--epochs", "6", "--batch-size", "128", "--model-options.width", "2", "--out", "study"]
QUICK += ["--ranges.learning_rate", "[0.01, 0.05]"]  # nothing diverges, also on another network
TRIALS = 6


def call(*words: str) -> None:
    """A command in this process, which ends well."""
    with pytest.raises(SystemExit) as left:
        main(list(words))
    assert left.value.code == 0


def ends(folder: Path) -> dict[str, int]:
    """How many trials were settled how."""
    with study_in(folder) as client:
        return Counter(record.outcome for record in settled(client.all_records()))


def wait_for_a_trial(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until a worker has put its name to a trial: almost all of the search is still to come."""
    while process.poll() is None:
        with contextlib.suppress(ConfigError, RunError), study_in(folder) as client:  # nothing is there at first
            while process.poll() is None:
                if any(record.process is not None for record in client.all_records()):
                    return
                time.sleep(0.02)
        time.sleep(0.1)
    raise AssertionError(process.communicate()[1])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was interrupted and went on."""
    words = ["search", "--rules", "symmetric_alignment", "backprop", "--trials", str(TRIALS), "--workers", "1", *QUICK]
    words += ["--pruner", "none"]
    cwd = tmp_path_factory.mktemp("search")
    process = subprocess.Popen(
        [sys.executable, "-m", "backroads", *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_a_trial(cwd / "study", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "the same command resumes study" in errors
    with study_in(cwd / "study") as client:
        assert "running" not in {record.outcome for record in client.all_records()}
    done = backroads(*words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "6 of 6 trials settled" in done.stdout
    assert "report: study/report.html" in done.stdout
    return cwd / "study"


def test_an_interrupted_search_goes_on_and_no_trial_is_lost_or_counted_twice(study: Path) -> None:
    assert ends(study) == {"complete": TRIALS}


def test_status_names_every_rule(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("search", "status", str(study))
    printed = capsys.readouterr().out
    assert "backprop" in printed
    assert "symmetric_alignment" in printed
    assert "6 of 6 trials settled" in printed


def test_the_best_trains_again_to_the_accuracy_of_its_trial(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("search", "best", str(study), "--group", "symmetric_alignment")
    capsys.readouterr()
    path = study / "best-symmetric_alignment.toml"
    assert tomllib.loads(path.read_text())["data"]["split"] == "test"
    results = json.loads((study / "results.json").read_text())
    (row,) = [row for row in results["groups"] if row["group"] == "symmetric_alignment"]
    call("train", "--config", str(path), "--split", "validation", "--out", str(tmp_path / "run"))
    trained = json.loads((tmp_path / "run" / "results.json").read_text())
    assert trained["arms"][0]["accuracy"] == row["best"]


def test_promoted_trials_are_trained_with_fresh_seeds_and_tested(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("search", "promote", str(study), "--top", "2", "--seeds", "2")
    first = capsys.readouterr().out
    assert "[4/4]" in first
    found = json.loads((study / "promote.json").read_text())
    assert [len(row["accuracies"]) for row in found["rows"]] == [2, 2]
    used = {training["settings"]["run"]["seed"] for training in found["trainings"].values()}
    assert len(used) == 2
    assert 0 not in used  # the trials' own
    assert {training["settings"]["data"]["split"] for training in found["trainings"].values()} == {"test"}
    call("search", "promote", str(study), "--top", "2", "--seeds", "2")
    assert "[1/4]" not in capsys.readouterr().out  # nothing is trained twice


def test_transfer_tells_what_is_lost_beside_backprop(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("transfer", str(study), "--models", "mlp", "--seeds", "1")
    assert "points lost in transfer" in capsys.readouterr().out
    found = json.loads((study / "transfer.json").read_text())
    assert found["models"] == ["digits_conv", "mlp"]
    cells = {row["group"]: row["models"] for row in found["rows"]}
    own, other = cells["symmetric_alignment"], cells["backprop"]
    gap = {model: other[model]["mean"] - own[model]["mean"] for model in found["models"]}
    assert own["mlp"]["lost"] == pytest.approx(gap["mlp"] - gap["digits_conv"])
    assert "mlp" in (study / "report.html").read_text()


def test_other_settings_are_refused(study: Path) -> None:
    cwd = study.parent
    words = ["search", "--rules", "symmetric_alignment", "backprop", "--workers", "1", *QUICK, "--pruner", "none"]
    before = (study / "config.toml").read_text()
    refused = backroads(*words, "--trials", str(TRIALS), "--seed", "3", cwd=cwd)
    assert refused.returncode == 2
    assert "seed: the run has 0, now 3" in refused.stderr
    assert (study / "config.toml").read_text() == before


def test_a_journal_is_searched_by_workers_and_reaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from backroads.search.record import ATTEMPT
    from backroads.search.run import prepare
    from backroads.search.settings import resolve
    from backroads.search.worker import work

    settings = {"epochs": 1, "trials": 3, "storage": "journal:study.log", "model_options": {"width": 2}}
    config, url = prepare(resolve(settings), tmp_path / "study")
    with study_in(tmp_path / "study") as client:
        dead = {ATTEMPT: {"trial": 0, "number": 0, "process": "elsewhere:boot:999999999:0"}}
        client.studies["symmetric_alignment"].add_trial(create_trial(state=TrialState.RUNNING, user_attrs=dead))
    assert work(url, config.study.name, most=2, log=lambda _: None) == "enough"
    call("search", "reap", str(tmp_path / "study"))
    assert "freed 0" in capsys.readouterr().out  # another machine's: nothing is known of it
    call("search", "reap", str(tmp_path / "study"), "--host", "elsewhere")
    assert "freed 1" in capsys.readouterr().out
    assert work(url, config.study.name, log=lambda _: None) == "settled"
    assert ends(tmp_path / "study") == {"complete": 3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "--trails", "3"], "Did you mean --trials?"),
        (["search", "--trials", "0"], "trials: expected greater than or equal to 1"),
        (["search", "--rules", "feedback_alignmnt"], "Did you mean 'feedback_alignment'?"),
        (["search", "--vary", "coeficients"], "Did you mean 'coefficients'?"),
        (["search", "--config", "misspelt.toml"], "Did you mean 'trials' in [search]?"),
        (["search", "--storage", "mysql://me:open-sesame@host/db"], "storage: expected"),
        (["search", "--out", "full"], "full exists, is not empty and holds no study"),
        (["search", "status", "nowhere"], "nowhere has no config.toml"),
        (["search", "statis", "nowhere"], "statis"),
        (["worker", "sqlite:///none.db"], "STUDY"),
        (["worker", "sqlite:///none.db", "study", "--trials", "0"], "--trials"),
        (["transfer", "nowhere", "--models", "mlp"], "nowhere has no config.toml"),
    ],
)
def test_mistakes_get_one_message_and_leave_nothing_behind(
    tmp_path: Path,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "misspelt.toml").write_text("trails = 3")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "open-sesame" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_help_needs_neither_torch_nor_optuna(tmp_path: Path) -> None:
    code = "import sys; from backroads.cli import main; main(sys.argv[1:])"
    code += "; sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    for words in (["search", "--help"], ["search", "promote", "--help"], ["worker", "--help"], ["transfer", "--help"]):
        subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE
        )
