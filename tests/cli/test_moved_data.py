"""Runs whose data have moved since they were trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data.images import make_folder

from backroads.cli import main


def run_with(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*words])
    return int(left.value.code or 0)


def test_eval_and_export_find_data_that_have_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there, run = tmp_path / "here", tmp_path / "there", str(tmp_path / "run")
    make_folder(here / "pictures", per_class=8)
    words = ["--data", "folder:pictures", "--root", str(here), "--model", "mlp", "--epochs", "1", "--batch-size", "4"]
    assert run_with("train", *words, "--out", run) == 0
    capsys.readouterr()
    assert run_with("eval", run) == 0
    before = capsys.readouterr().out
    here.rename(there)
    for verb in (["export", run, "--no-program"], ["eval", run]):
        assert run_with(*verb) == 2
        assert str(here) in capsys.readouterr().err
        assert run_with(*verb, "--root", str(there)) == 0
    assert capsys.readouterr().out.endswith(before)


def test_meta_eval_and_analyse_find_data_that_have_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there, run = tmp_path / "here", tmp_path / "there", str(tmp_path / "run")
    here.mkdir()
    for name, seed in (("background", 0), ("evaluation", 1)):
        images = np.random.default_rng(seed).integers(0, 256, (6, 20, 9, 9), dtype=np.uint8)
        np.savez(here / f"images_{name}.npz", images=images)
    words = ["--task", "omniglot", "--root", str(here), "--image-size", "9", "--front", "none", "--hidden", "4"]
    words += ["--tasks", "2", "--validation-classes", "2", "--meta-steps", "1", "--eval-lifetimes", "1"]
    assert run_with("meta", "train", *words, "--out", run) == 0
    here.rename(there)
    for verb in ("eval", "analyse"):
        assert run_with("meta", verb, run, "--lifetimes", "1") == 2
        assert str(here) in capsys.readouterr().err
        assert run_with("meta", verb, run, "--lifetimes", "1", "--root", str(there)) == 0
