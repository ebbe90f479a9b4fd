"""A run that was killed and went on is, bit for bit, the run that never was."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from train.processes import finish, start, wait_for_step

from backroads.runs import checkpoint
from backroads.train.arm import Sums

# Everything that has a state or draws: noise in the rule, a count of steps, momentum, a running mean, accumulation.
SETTINGS: dict[str, Any] = {
    "data": "digits",
    "model": "digits_conv",
    "model_options": {"width": 4},
    "rule": "weight_mirror",
    "rule_options": {"cadence": {"every": 3}, "drive": {"kind": "white_noise", "std": 0.1}},
    "backward_momentum": 0.5,
    "ema": 0.9,
    "lookahead": 2,
    "freeze_after": {"*.bias": 5},
    "epochs": 12,
    "batch_size": 52,  # 22 steps in an epoch
    "accumulate": 2,
    "log_every": 3,
    "readings_every": 0.3,
    "checkpoint_every": 2,
    "threads": 1,
}


def contents(run: Path) -> dict[str, Any]:
    """What has to be equal: the log to the byte, weights and optimisers to the bit, results but for the time."""
    found, problems = checkpoint.load_newest(run / "checkpoints")
    assert found is not None
    assert problems == []
    results = json.loads((run / "results.json").read_text())
    results.pop("seconds")
    for arm in results["arms"]:
        arm.pop("step_ms")
        arm.pop("step_ratio")
    return {
        "events": (run / "events.jsonl").read_bytes(),
        "step": found.manifest.step,
        "model": found.model,
        "state": found.state,
        "results": results,
        "best": checkpoint.load_best(run / "checkpoints").manifest.step,
        "names": sorted(p.name for p in (run / "checkpoints").iterdir()),
    }


def assert_same(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


# Where to kill a run of three epochs of 22 steps, which saves after every second step: the place, and the steps done
# by then; and the step of the checkpoint that it can then go on from, None for none.
KILLS: list[tuple[str, int, int | None]] = [
    ("after an evaluation", 0, None),
    ("in saving", 0, None),
    ("after saving", 0, 0),
    ("before a step", 1, 0),
    ("before an update", 3, 2),
    ("after an update", 4, 4),
    ("in saving", 6, 4),
    ("after a step", 7, 6),
    ("before saving", 8, 6),
    ("after saving", 10, 10),
    ("before a line", 12, 10),
    ("after a line", 15, 14),
    ("in saving", 16, 14),
    ("before a step", 21, 20),
    ("in an evaluation", 22, 20),
    ("after an evaluation", 22, 20),
    ("before saving", 22, 20),
    ("in saving", 22, 20),
    ("after saving", 22, 22),
    ("before an update", 31, 30),
    ("after a line", 33, 32),
    ("in saving", 44, 42),
    ("after saving", 64, 64),
    ("in an evaluation", 66, 64),
    ("in saving", 66, 64),
]


@pytest.mark.slow
def test_killed_at_any_place_of_a_step(tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 3}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finish(settings, whole, resume=False) == [0]
    for where, step, _ in KILLS:
        assert finish({**settings, "kill": [where, step]}, broken) == [-signal.SIGKILL], (where, step)
    assert finish(settings, broken) == [0]
    lines = [json.loads(line) for line in (broken / "system.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "resumed"] == [n for *_, n in KILLS if n is not None]
    assert_same(contents(whole), contents(broken))


# What draws noise or keeps a past: in the weights' updates, in phases, in the backward pass, in the view of W.
DRAWING: dict[str, dict[str, Any]] = {
    "a view of W": {
        "rule": "symmetric_alignment",
        "rule_options": {"view": {"noise_std": 0.1, "keep_probability": 0.7, "delay_steps": 3}},
        "update_noise": 0.01,
    },
    "mirrors": {
        "rule": "error_correcting_mirror",
        "rule_options": {"every": 2},
        "mirror_steps": 3,
        "mirror_options": {"rows_per_input": 2.0},
        "update_noise": 0.01,
        "update_noise_distribution": "uniform",
        "update_noise_on": "backward",
    },
    "steps of B alone": {
        "rule": "mirrored_kolen_pollack",
        "rule_options": {"every": 3, "first": 0.0},
        "delay_epochs": 0.5,
        "alternate_step_freq": 1,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "world"), [("a view of W", 1), ("mirrors", 2), ("steps of B alone", 1)])
def test_noise_and_what_is_late_go_on_after_a_kill(tmp_path: Path, name: str, world: int) -> None:
    settings = {**SETTINGS, "backward_momentum": None, **DRAWING[name], "epochs": 3, "checkpoint_every": 5}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finish(settings, whole, resume=False, world=world) == [0] * world
    for step in (8, 31):
        processes = start(settings, broken, world=world)
        wait_for_step(broken, step)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
    assert finish(settings, broken, world=world) == [0] * world
    assert_same(contents(whole), contents(broken))


@pytest.mark.slow
def test_killed_while_two_processes_train(tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 3, "sync_batch_norm": True, "checkpoint_every": 5}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finish(settings, whole, resume=False, world=2) == [0, 0]
    for step in (8, 31):
        processes = start(settings, broken, world=2)
        wait_for_step(broken, step)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
    assert finish(settings, broken, world=2) == [0, 0]
    assert_same(contents(whole), contents(broken))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_sums_of_three_processes_are_those_of_any_number(world: int) -> None:
    """Loss, right answers and examples since an epoch and a line began: rows of three processes, read by ``world``."""
    rows = torch.arange(18, dtype=torch.float64).view(3, 6) + 1
    loaded = []
    for rank in range(world):
        sums = Sums(torch.device("cpu"))
        sums.load(rows.tolist(), rank, world)
        loaded.append(sums)
    if world == 3:
        assert [sums.state() for sums in loaded] == rows.tolist()
    for name, expected in (("epoch", rows[:, :3].sum(0)), ("line", rows[:, 3:].sum(0))):
        assert torch.tensor([sums.take(name) for sums in loaded]).sum(0).tolist() == expected.tolist()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_signal_saves_and_leaves(tmp_path: Path, number: signal.Signals) -> None:
    settings = {**SETTINGS, "epochs": 4, "checkpoint_every": None}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finish(settings, whole, resume=False) == [0]
    (process,) = start(settings, broken)
    wait_for_step(broken, 30)
    os.kill(process.pid or 0, number)
    process.join(300)
    assert process.exitcode == 128 + number
    found, _ = checkpoint.load_newest(broken / "checkpoints")
    assert found is not None
    assert found.manifest.step % 22 != 0  # saved where it was, in the middle of an epoch of 22 steps
    assert finish(settings, broken) == [0]
    assert contents(whole)["events"] == contents(broken)["events"]
    assert_same(contents(whole)["model"], contents(broken)["model"])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_and_the_run_is_the_same(tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 3}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finish(settings, whole, resume=False) == [0]
    (process,) = start(settings, broken)
    wait_for_step(broken, 20)
    process.kill()
    process.join()
    newest = max((broken / "checkpoints").glob("step-*"))
    model = newest / checkpoint.MODEL
    model.write_bytes(model.read_bytes()[:-10])
    assert finish(settings, broken) == [0]
    assert (newest.parent / f"damaged-{newest.name}").is_dir()
    lines = [json.loads(line) for line in (broken / "system.jsonl").read_text().splitlines()]
    assert any("checksum" in str(line.get("problems")) for line in lines)
    assert contents(whole)["events"] == contents(broken)["events"]


def test_more_epochs_go_on_from_the_end(tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 2, "schedule": "constant"}
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert finish({**settings, "epochs": 3}, once, resume=False) == [0]
    assert finish(settings, twice) == [0]
    assert finish({**settings, "epochs": 3}, twice) == [0]
    assert_same(contents(once)["model"], contents(twice)["model"])
