"""Every verb that runs, killed at random steps and writes, goes on to the bits of the run that was left alone."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos.commands import TINY, tiny_images
from chaos.killed import Moment, run
from patience import PATIENCE

from backroads.errors import BackroadsError
from backroads.runs import checkpoint
from backroads.search.record import Record, settled
from backroads.search.run import study_in

pytestmark = pytest.mark.slow

KILLS = 6
TRAIN = f"{TINY} --epochs 9 --learning-rate 0.01 --ema 0.9 --checkpoint-every 2"
RUNS = {
    "train": f"train {TRAIN} --rule-options.view.delay_steps 3 --rule-options.view.noise_std 0.1 --update-noise 0.1",
    "compare": f"compare {TRAIN} --rules sign_symmetry --methods local_errors --seeds 0 1",
    "meta": (
        "meta train --meta-steps 60 --tasks 2 --steps-per-task 2 --batch-size 2 --hidden 3 --eval-lifetimes 2 "
        "--eval-every 9 --checkpoint-every 2 --log-every 2 --initial-weights random --threads 1"
    ),
}
TIMES = {"seconds", "step_ms", "step_ratio"}  # of results: what the clock says


def untimed(data: Any) -> Any:
    """JSON data without what depends on the clock."""
    if isinstance(data, dict):
        return {key: untimed(value) for key, value in data.items() if key not in TIMES}
    return [untimed(value) for value in data] if isinstance(data, list) else data


def assert_same(one: Path, other: Path) -> None:
    """Two run folders of the same log, results and checkpoints, to the bit."""
    assert (one / "events.jsonl").read_bytes() == (other / "events.jsonl").read_bytes()
    assert untimed(json.loads((one / "results.json").read_text())) == untimed(
        json.loads((other / "results.json").read_text())
    )
    names = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        a, b = (checkpoint.load(folder / "checkpoints" / name) for folder in (one, other))
        torch.testing.assert_close(a.model, b.model, rtol=0, atol=0, equal_nan=True)
        assert str(a.state) == str(b.state)
        assert a.manifest.score == b.manifest.score


def resumes(folder: Path) -> int:
    """How often a run says that it went on."""
    path = folder / "system.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(json.loads(line)["event"] == "resumed" for line in lines)


@pytest.mark.parametrize("kind", RUNS)
def test_killed_at_random_steps_and_writes(kind: str, tmp_path: Path) -> None:
    draw = random.Random(kind)
    data = [] if kind == "meta" else ["--data", f"npz:{tiny_images(tmp_path / 'images.npz')}"]
    words = [*RUNS[kind].split(), *data]
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"
    assert run([*words, "--out", str(whole)], None, log) == 0, log.read_text()
    moments: list[Moment] = [("step" if n % 2 else "write", draw.randint(1, 16)) for n in range(KILLS)]
    for n, moment in enumerate([*moments, None]):
        there = checkpoint.load_newest(broken / "checkpoints")[0] is not None
        before = resumes(broken)
        status = run([*words, "--out", str(broken), "--resume"], moment, log)
        assert status == (0 if moment is None else -signal.SIGKILL), f"start {n}, {moment}: {log.read_text()[-2000:]}"
        if moment is None or moment[0] == "step":
            assert resumes(broken) - before == there, f"start {n}, {moments}"
        else:
            assert resumes(broken) - before <= there, f"start {n}, {moments}"
    assert resumes(broken) >= KILLS // 2, moments
    assert "Traceback" not in log.read_text()
    assert_same(whole, broken)


SEARCH = f"search {TINY} --epochs 30 --rules kolen_pollack backprop --trials 8 --sampler random"


def found_by(folder: Path) -> dict[str, list[Any]]:
    """Outcome, values and accuracy of the settled trials of each group, in the order of their draws.

    Numbers have gaps where a trial was tried again.
    """
    with study_in(folder) as client:
        records = sorted(settled(client.all_records()), key=lambda one: one.number)
        groups: dict[str, list[Any]] = {group: [] for group in client.groups}
        for one in records:
            groups[one.group].append((one.outcome, one.trial.params, one.value))
        return groups


def test_a_search_whose_workers_and_whose_command_are_killed(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = [*SEARCH.split(), "--pruner", "none", "--data", f"npz:{tiny_images(tmp_path / 'images.npz')}"]
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"

    def begun(folder: Path, workers: int) -> subprocess.Popen[bytes]:
        given = [*words, "--workers", str(workers), "--out", str(folder)]
        with log.open("ab") as out:
            return subprocess.Popen([sys.executable, "-m", "backroads", *given], stdout=out, stderr=out, cwd=tmp_path)

    def running(done: int) -> Record:
        """A trial that a worker trains, once so many are settled."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(BackroadsError), study_in(broken) as client:  # there may be none yet
                records = client.all_records()
                own = [one for one in records if one.outcome == "running" and one.process is not None]
                if own and len(settled(records)) >= done:
                    return draw.choice(own)
            time.sleep(0.1)
        raise AssertionError(f"no trial runs; {log.read_text()}")

    def worker_of(record: Record) -> int:
        return int(str(record.process).rsplit(":", 2)[1])

    process = begun(whole, 1)
    assert process.wait(PATIENCE) == 0, log.read_text()
    process = begun(broken, 2)
    os.kill(worker_of(running(0)), signal.SIGKILL)
    running(2)
    process.kill()
    process.wait()
    process = begun(broken, 2)
    os.kill(worker_of(running(3)), signal.SIGKILL)
    assert process.wait(PATIENCE) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert found_by(broken) == found_by(whole)
