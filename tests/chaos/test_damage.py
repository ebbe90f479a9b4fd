"""Damaged folders of runs: every verb ends well or with a message, loses nothing that is whole, and runs nothing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from chaos.commands import TINY, call, tiny_images
from chaos.damage import DAMAGES, contents, lost

pytestmark = pytest.mark.slow

TRAIN = f"{TINY} --epochs 3 --checkpoint-every 4 --keep 20 --log-every 3"
META = (
    "--meta-steps 4 --tasks 2 --steps-per-task 2 --batch-size 2 --hidden 3 --eval-lifetimes 2 --threads 1 "
    "--checkpoint-every 2 --log-every 1 --eval-every 2 --keep 20"
)
COMMANDS = {
    "train": f"train {TRAIN}",
    "compare": f"compare {TRAIN} --rules kolen_pollack --seeds 0",
    "meta": f"meta train {META}",
    "theory": "theory --points 5 --simulated 2 --no-network --time 2",
    "search": f"search {TINY} --epochs 2 --rules backprop --trials 3 --workers 1",
}
ON_IMAGES = ("train", "compare", "search")
CHUNKS, CASES = 10, 20

# By kind of folder: verbs, with RUN for the folder, and the names that each writes anew or goes on with.
REPORT = {"report.html"}
GOES_ON = {"report.html", "results.json", "config.toml", "events.jsonl", "system.jsonl"}
VERBS: dict[str, list[tuple[list[str], set[str]]]] = {
    "train": [
        (["report", "RUN"], REPORT),
        (["eval", "RUN"], set()),
        (["eval", "RUN", "--checkpoint", "best"], set()),
        (["export", "RUN", "--no-program", "--out", "exported"], set()),
        (["train", "--resume", "--out", "RUN"], GOES_ON),
    ],
    "compare": [(["report", "RUN"], REPORT), (["compare", "--resume", "--out", "RUN"], GOES_ON)],
    "meta": [
        (["report", "RUN"], REPORT),
        (["meta", "eval", "RUN", "--lifetimes", "2"], {*REPORT, "evaluation.json"}),
        (["meta", "analyse", "RUN", "--lifetimes", "2", "--probes", "2"], {*REPORT, "analysis.json"}),
        (["meta", "report", "RUN"], REPORT),
        (["meta", "train", "--resume", "--out", "RUN"], GOES_ON),
    ],
    "theory": [(["report", "RUN"], REPORT)],
    "search": [
        (["search", "status", "RUN"], set()),
        (["search", "best", "RUN"], {"best.toml"}),
        (["search", "report", "RUN"], {"report.html", "results.json"}),
        (["report", "RUN"], REPORT),
    ],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One finished folder of each kind, and a training and a meta-training that were interrupted, without results."""
    root = tmp_path_factory.mktemp("whole")
    images = tiny_images(root / "images.npz")
    found = {}
    for kind, words in COMMANDS.items():
        data = ["--data", f"npz:{images}"] if kind in ON_IMAGES else []
        ended = call(*words.split(), *data, "--out", str(root / kind), seconds=200)
        assert ended.status == 0, ended
        found[kind] = root / kind
    for kind in ("train", "meta"):
        found[f"{kind}, interrupted"] = root / f"{kind}-interrupted"
        shutil.copytree(root / kind, root / f"{kind}-interrupted")
        for name in ("results.json", "report.html"):
            (root / f"{kind}-interrupted" / name).unlink()
        shutil.rmtree(max((root / f"{kind}-interrupted/checkpoints").glob("step-*")))
    return found


def rewritten(names: Iterable[str], damaged: set[str]) -> Callable[[str], bool]:
    """Whether a file may be another one after a verb: the verb writes it, or it was damaged."""
    return lambda name: name in {*names, *damaged}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_damaged_folder_is_told_and_nothing_whole_is_lost(
    chunk: int, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    problems: list[str] = []
    told = 0
    for case in range(CASES):
        seed = chunk * CASES + case
        draw = random.Random(seed)
        kind = draw.choice(list(folders))
        outside = tmp_path / f"outside-{seed}"
        outside.mkdir()
        (outside / "kept").write_text("not of this run")
        damaged = tmp_path / f"damaged-{seed}"
        shutil.copytree(folders[kind], damaged)
        done = []
        for _ in range(draw.choice([1, 1, 2])):
            name = draw.choice([name for name in contents(damaged) if name != "report.html"])
            damage = draw.choice(DAMAGES)
            damage(draw, damaged / name, outside)
            done.append(f"{damage.__name__} of {name}")
        whole = contents(folders[kind])
        before = contents(damaged)
        broken = {name for name in before if before[name] != whole.get(name)}
        beside = contents(outside)
        verbs = VERBS[kind.partition(",")[0]]
        for words, names in draw.sample(verbs, min(2, len(verbs))):
            run = tmp_path / "run"
            shutil.copytree(damaged, run, symlinks=True)
            ended = call(*(str(run) if word == "RUN" else word for word in words), seconds=60)
            problem = ended.problem
            if gone := lost(before, run, rewritten(names, broken)):
                problem = f"lost: {', '.join(gone)}"
            if contents(outside) != beside:
                problem = "something outside of the folder was changed"
            if problem:
                problems.append(f"case {seed}, {kind}, {' and '.join(done)}: {problem}\n{ended}")
            told += ended.status != 0
            shutil.rmtree(run)
            shutil.rmtree(tmp_path / "exported", ignore_errors=True)
        shutil.rmtree(damaged)
    assert not problems, f"{len(problems)} problems\n" + "\n\n".join(problems)
    assert told > 2  # of ten on average: damage that nothing notices would show nothing
