"""A thousand random settings through whole commands: each ends well or with a message, in time."""

from __future__ import annotations

import json
import os
import random
import shutil
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from chaos.commands import TINY, Ended, call, tiny_images
from pydantic.fields import FieldInfo

from backroads import list_methods, list_rules
from backroads.contrib.theory.settings import TheoryConfig
from backroads.plasticity.settings import LEARNERS, MetaConfig
from backroads.runs.groups import flags, groups
from backroads.train.comparison import CompareSettings
from backroads.train.settings import TrainSettings

pytestmark = pytest.mark.slow

MARKER = "executed"
NONSENSE = [
    *("", " ", "-1", "0", "nan", "inf", "-inf", "1e400", "1e-400", "None", "null", "true", "[]", "{}", "[[", '"', "\\"),
    *("é", "名", "a.b", "x:y", "../..", "/dev/null", "--", "-", "%s", "{0}", "symmetric_aligment", "0x10", "1_000"),
    *(f"__import__('os').system('touch {MARKER}')", f"$(touch {MARKER})", f"; touch {MARKER}", "a" * 5000),
]
NAMES: dict[str, list[str]] = {
    "rule": list_rules(),
    "rules": list_rules(),
    "methods": [*list_methods(), "feedback"],
    "method": list_methods(),
    "model": ["mlp", "digits_conv", "lenet", "vit"],
    "learner": list(LEARNERS),
    "device": ["cpu", "auto", "cuda:7"],
    "schedule": ["cosine", "steps"],
}
# What would cost hours or gigabytes, or is the case's own.
LEFT = {"out", "data", "task", "root", "download", "config", "resume", "log", "workers", "compile"}
LEFT |= {"inputs", "outputs", "network_points", "simulated", "network_steps"}  # of theory
SMALL: dict[str, tuple[type[Any], str]] = {
    "train": (TrainSettings, f"{TINY} --max-steps 2"),
    "compare": (
        CompareSettings,
        f"{TINY} --max-steps 2 --seeds 0 --rules kolen_pollack",
    ),
    "meta train": (
        MetaConfig,
        "--meta-steps 2 --tasks 2 --steps-per-task 2 --batch-size 2 --hidden 3 --eval-lifetimes 2 --threads 1",
    ),
    "theory": (TheoryConfig, "--points 5 --simulated 2 --network-points 2 --network-steps 10 --time 2"),
}
SHARES = {"train": 50, "compare": 15, "meta train": 30, "theory": 5}  # of 100 cases
CHUNKS, CASES = 20, 50


def number(draw: random.Random, field: FieldInfo, whole: bool) -> str:
    """A number at, beside or between the bounds of a field."""
    bounds = [
        b for m in field.metadata for name in ("ge", "gt", "le", "lt") if (b := getattr(m, name, None)) is not None
    ]
    ends = [value for bound in bounds for value in (bound - 1, bound, bound + 1) if abs(value) <= 64]
    if whole:
        return str(draw.choice([*map(int, ends), 0, 1, 2, 3, 5, 8, 16, -7]))
    return f"{draw.choice([*ends, 0.0, 0.5, 1.0, -0.3, 10 ** draw.uniform(-8, 4)]):g}"


def value(draw: random.Random, flag: str, field: FieldInfo, kind: Any) -> list[str]:
    """Words for a flag, by the type of its field."""
    if draw.random() < 0.15:
        return [draw.choice(NONSENSE)]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return value(draw, flag, FieldInfo.from_annotation(kind), arguments[0])
    if origin in (typing.Union, types.UnionType):
        return value(draw, flag, field, draw.choice([one for one in arguments if one is not type(None)]))
    if origin is list:
        return [word for _ in range(draw.randint(1, 3)) for word in value(draw, flag, field, arguments[0])]
    if origin is typing.Literal:
        return [str(draw.choice(arguments))]
    if kind in (int, float):
        return [number(draw, field, kind is int)]
    return [draw.choice(NAMES.get(flag, NONSENSE))]


def words_of(draw: random.Random, verb: str) -> list[str]:
    """The flags of a case: small settings, and up to four that are drawn, which come later and count."""
    schema, small = SMALL[verb]
    tables = groups(schema)
    chosen = list[str]()
    for flag, (table, name) in draw.sample(sorted(flags(schema).items()), draw.randint(1, 4)):
        group = tables[table] if table else schema
        if flag in LEFT or name in getattr(group, "without_flag", {}):
            continue
        field = group.model_fields[name]
        dashed = "--" + flag.replace("_", "-")
        if typing.get_origin(field.annotation) is dict:
            key = draw.choice(
                ["amp", "decay", "self", "width", "rate", "cadence.every", "symmetric_alignment.decay", "*"]
            )
            chosen += [f"{dashed}.{key}", draw.choice([*NONSENSE, "0.1", "1", "2"])]
        elif field.annotation is bool:
            chosen.append(dashed if draw.random() < 0.5 else "--no-" + flag.replace("_", "-"))
        else:
            words = value(draw, flag, field, field.annotation)
            chosen += [f"{dashed}={words[0]}"] if len(words) == 1 else [dashed, *words]
    given, kept = {word.partition("=")[0] for word in chosen}, small.split()
    pairs = zip(kept[::2], kept[1::2], strict=True)
    return [word for pair in pairs if pair[0].partition("-options")[0] not in given for word in pair] + chosen


def consistent(ended: Ended, out: Path) -> str | None:
    """What is wrong with a folder after a command; None if it is as the status says."""
    config, results = out / "config.toml", out / "results.json"
    if ended.status == 2:
        return f"bad input left {config}" if config.exists() else None
    if not config.is_file():
        return "no config.toml"
    if ended.status == 0 and not results.is_file():
        return "no results.json"
    if results.is_file():
        json.loads(results.read_text(encoding="utf-8"))
    if left := [path.name for path in out.rglob("*") if path.name.endswith(".tmp") or ".writing-" in path.name]:
        return f"left over: {', '.join(left)}"
    return None


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_settings_end_well_or_with_a_message(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = tiny_images(tmp_path / "images.npz")
    found: list[str] = []
    ends = dict.fromkeys((0, 1, 2), 0)
    for case in range(CASES):
        seed = chunk * CASES + case
        draw = random.Random(seed)
        verb = draw.choices(list(SHARES), list(SHARES.values()))[0]
        words = [*verb.split(), *words_of(draw, verb), "--out", "run"]
        if verb in ("train", "compare"):
            words += ["--data", f"npz:{images}"]
        ended = call(*words, seconds=150)
        problem = ended.problem or consistent(ended, tmp_path / "run")
        if os.path.exists(MARKER):
            problem = "something was executed"
        if problem:
            found.append(f"case {seed}: {problem}\n{ended}")
        else:
            ends[ended.status or 0] += 1
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert not found, f"{len(found)} cases\n" + "\n\n".join(found)
    assert ends[0] >= CASES // 10  # the draws are not all refused
    assert ends[2] >= CASES // 10
