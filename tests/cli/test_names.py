"""Names in bytes that are not UTF-8, from the listing of a folder to the report."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest
from data.images import make_folder
from report.pages import page_of

from backroads.cli import main

ODD = os.fsdecode(b"caf\xe9 \xff")


def run_with(*words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main([*words])
    assert left.value.code in (0, None)


def test_names_that_are_not_utf8_work_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", classes=("cat", ODD), per_class=8)
    (data / "train" / ODD / f"{ODD}.png").write_bytes(b"no image")
    (data / "train" / ODD / "000.png").rename(data / "train" / ODD / f"0{ODD}.png")
    run = tmp_path / ODD
    words = ["train", "--data", f"folder:{data}", "--model", "mlp", "--epochs", "1", "--batch-size", "4"]
    run_with(*words, "--corrupt-limit", "1", "--out", str(run))
    assert "accuracy" in capsys.readouterr().out
    run_with("eval", str(run))
    assert "16 images" in capsys.readouterr().out
    run_with("export", str(run), "--no-program")
    run_with("report", str(run))
    assert r"caf\udce9 \udcff" in capsys.readouterr().out

    (path,) = json.loads((run / "results.json").read_text(encoding="utf-8"))["corrupt_examples"]
    assert path.endswith(r"caf\udce9 \udcff.png")
    assert json.loads((run / "export" / "model.json").read_text())["class_names"] == [r"caf\udce9 \udcff", "cat"]
    assert tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["data"]["name"] == f"folder:{data}"
    assert r"caf\udce9 \udcff.png" in page_of(run).text


def test_settings_that_a_file_cannot_hold_are_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--data", f"folder:{ODD}"], ["--root", ODD], ["--model-options.name", ODD]):
        with pytest.raises(SystemExit) as left:
            main(["train", *words, "--out", str(tmp_path / "run")])
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert "expected text in UTF-8" in said
        assert "or a link to it" in said
        assert "\n" not in said.strip()
    assert not (tmp_path / "run").exists()
