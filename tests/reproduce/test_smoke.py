"""All claims at the smallest scale, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backroads.cli import main
from backroads.reproduce.claims import claim_ids


def run(out: Path, *more: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "run", "all", "--scale", "smoke", "--out", str(out), *more])
    assert not ended.value.code


@pytest.mark.slow
def test_all_claims_run_at_the_smallest_scale_and_say_nothing_as_science(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all"
    run(out)
    found = json.loads((out / "results.json").read_text())
    assert [claim["id"] for claim in found["claims"]] == claim_ids()
    assert {claim["verdict"] for claim in found["claims"]} == {"not judged"}
    assert all(claim["done"] == claim["trainings"] > 0 for claim in found["claims"])
    assert all(decision["differences"] for claim in found["claims"] for decision in claim["decisions"])
    printed = capsys.readouterr().out
    assert "confirmed" not in printed
    assert "contradicted" not in printed
    assert "Confirmed." not in (out / "report.html").read_text()  # as the verdict of a claim

    # Nothing is run a second time.
    before = {path: os.stat(path).st_mtime_ns for path in out.rglob("events.jsonl")}
    run(out, "--resume")
    assert {path: os.stat(path).st_mtime_ns for path in out.rglob("events.jsonl")} == before


@pytest.mark.slow
def test_processes_of_torchrun_divide_the_trainings(tmp_path: Path) -> None:
    """Two processes, of which each takes what the other has not in hand; the last one sees all."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "backroads"]
    words = ["reproduce", "run", "K8", "--scale", "smoke", "--threads", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run([*launch, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ended = set(re.findall(r"\[\d+/\d+\] (.*): finished", done.stdout))
    (claim,) = json.loads((tmp_path / "out" / "results.json").read_text())["claims"]
    assert claim["done"] == claim["trainings"] == len(ended) == 4
    assert re.findall(r"^K8 .* 4 of 4", done.stdout, re.MULTILINE)
