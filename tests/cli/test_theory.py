"""``backroads theory``: its folder, its page, and bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

from backroads.cli import app, main
from backroads.contrib.theory.settings import resolve
from backroads.errors import ConfigError
from backroads.report import write_report
from backroads.reproduce.claims import claim_ids, load_claim

QUICK = ["--points", "5", "--simulated", "3", "--time", "5", "--inputs", "2", "--outputs", "2"]
NETWORK = ["--network-points", "2", "--network-steps", "10"]


def run(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["theory", *words])
    return ended.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("theory") / "run"
    assert run(*QUICK, *NETWORK, "--null", "0", "--self", "0", "--decay", "0.4", "--out", str(place)) == 0
    return place


def test_the_network_can_be_left_out(tmp_path: Path) -> None:
    assert run(*QUICK, "--no-network", "--out", str(tmp_path / "run")) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["network"] is None


def test_it_writes_a_folder_with_a_page_that_needs_nothing_else(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.toml", "environment.json", "events.jsonl", "results.json", "report.html"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count('role="img"') == 6  # diagram, plane, norms, gain, angle, network
    assert "it explodes" in page


def test_the_results_are_those_of_the_equations(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    (origin,) = results["moving"]["points"]
    assert origin["eigenvalues"] == pytest.approx([1 - 0.4, -1 - 0.4])
    diagram = results["diagram"]
    for y, row in zip(diagram["ys"], diagram["closed"], strict=True):
        for x, fate in zip(diagram["xs"], row, strict=True):  # amp across, decay up, no null
            assert fate == ("undecided" if x == y else "explodes" if x > y else "collapses")
    assert diagram["agreed"] == diagram["of"] == 6  # 9 points less 3 on the border
    assert results["held"]["eigenvalue_error"] < 1e-12
    assert results["held"]["gain"] == pytest.approx(1 / 0.4)  # amp / decay, white input of power 1
    assert [len(row) for row in results["network"]["outcomes"]] == [2, 2]
    noise, *activities = results["mirror"]["curves"]
    assert noise["gain"][-1] == pytest.approx(1, abs=0.05)
    assert [curve["gain"][-1] for curve in activities] == pytest.approx([0.25, 1, 4], rel=0.05)


def test_the_page_can_be_made_again_and_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    before = (folder / "report.html").read_bytes()
    assert write_report(folder).read_bytes() == before
    for name in ("environment.json", "config.toml"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    broken = json.loads((folder / "results.json").read_text())
    broken["diagram"]["agreed"] = "all"
    (tmp_path / "results.json").write_text(json.dumps(broken))
    with pytest.raises(ConfigError, match=r"diagram\.agreed"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--null", "-1"], "null: expected greater than or equal to 0"),
        (["--across", "decay", "--up", "decay"], "two different coefficients"),
        (["--across", "ampp"], "across"),
        (["--points", "1"], "points: expected greater than or equal to 2"),
        (["--nul", "1"], "Did you mean --null?"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--out", "full"], "full exists and is not empty"),
    ],
)
def test_mistakes_get_one_message_and_leave_nothing_behind(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert run(*words) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_settings_from_code_are_checked_alike() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'network'"):
        resolve({"networks": False})


def test_its_help_needs_no_torch() -> None:
    code = "import sys, backroads.cli.theory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE).returncode == 0


def test_the_page_of_a_claim_names_commands_that_there_are() -> None:
    found = [command for id in claim_ids() for command in re.findall(r"backroads ([^(),:;]+)", load_claim(id).see)]
    assert found
    for command in found:
        app.parse_args(command.split(), exit_on_error=False, print_error=False)
