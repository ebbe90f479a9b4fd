"""A rule in a file outside the package works wherever a rule is named, by its import path."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from problems import batch, small_network

import backroads as br
from backroads.cli import main

# Rules that are no sums of primitives: their files read nothing of the package but what is public.
FILES = ("product_feedback_alignment", "direct_kolen_pollack", "direct_random_target_projection", "error_broadcast")
LONGEST = 80  # lines, docstrings included
RULES = Path(br.rules.__file__).parent


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The import path of a rule that is copied out of the package, under a kind of its own."""
    name = request.param
    text = (RULES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= LONGEST
    module = f"outside_{name}"
    (tmp_path / f"{module}.py").write_text(text.replace(f'= "{name}"', f'= "{module}"'))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    yield f"{module}:{name}"
    br.FeedbackRule.classes.pop(module, None)
    sys.modules.pop(module, None)


def test_it_is_the_rule_of_the_package(path: str) -> None:
    inside, outside = br.get_rule(path.split(":")[1]), br.get_rule(path)
    assert type(outside) is not type(inside)
    assert repr(outside) == repr(inside)
    assert br.rules.from_dict(outside.to_dict()) == outside
    gradients = []
    for rule in (inside, outside):
        model = small_network(rule)
        x, y = batch()
        F.cross_entropy(model(x), y).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, rtol=0, atol=0)


def test_it_trains_from_the_command_line_and_stands_in_events_and_report(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--model-options.width", "2", "--threads", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["train", "--rule", path, "--epochs", "1", *small, "--out", "run"])
    assert ended.value.code in (None, 0)
    events = [json.loads(line) for line in Path("run/events.jsonl").read_text().splitlines()]
    start = next(event for event in events if event["event"] == "start")
    assert start["arms"][0]["name"] == path
    assert "update_angle" in next(event for event in events if event["event"] == "readings")["values"]
    assert path in Path("run/report.html").read_text()
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "digits_conv", "--rule", path, "--shape", "1,8,8"])
    assert ended.value.code in (None, 0)
    assert path in capsys.readouterr().out


@pytest.mark.parametrize("path", FILES[:1], indirect=True)
@pytest.mark.slow
def test_it_is_searched_beside_a_method_and_its_best_training_is_evaluated(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--model-options.width", "2", "--epochs", "1"]
    words = ["--rules", path, "--methods", "local_errors", "--vary", "learning_rate", "--trials", "2", *small]
    for line in (
        ["search", *words, "--out", "study"],
        ["train", "--config", "study/best.toml", "--out", "run"],
        ["train", "--rule", path, *small, "--out", "own"],
        ["eval", "own", "--trust"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(line)
        assert ended.value.code in (None, 0)
    assert "top-1" in capsys.readouterr().out
    results = json.loads(Path("study/results.json").read_text())
    assert {group["group"]: group["ended"]["complete"] for group in results["groups"]} == {path: 1, "local_errors": 1}


def test_it_stands_in_a_comparison(path: str) -> None:
    words = ["--rules", path, "--seeds", "0", "--epochs", "1", "--model-options.width", "2", "--out", "comparison"]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words])
    assert ended.value.code in (None, 0)
    results = json.loads(Path("comparison/results.json").read_text())
    assert {arm["name"] for arm in results["arms"]} == {"backprop", path}
