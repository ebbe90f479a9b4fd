"""The loop, with arms that only write down what is asked of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backroads.errors import DivergedError, RunError
from backroads.runs import checkpoint
from backroads.runs.arm import Arm
from backroads.runs.loop import Loop, Times, failures_explained
from backroads.runs.runtime import Runtime
from backroads.runs.signals import Stopper

HERE = Runtime(torch.device("cpu"))


class Written(Arm):
    """Writes (its name, step) into a list; at a step of its own its numbers are no longer finite."""

    def __init__(self, name: str, steps: list[tuple[str, int]], diverges_at: int | None = None) -> None:
        self.name, self.steps, self.diverges_at = name, steps, diverges_at

    def step(self, step: int) -> None:
        self.steps.append((self.name, step))
        if step == self.diverges_at:
            raise DivergedError("too large")

    def log(self, step: int) -> None:
        pass

    def evaluate(self, step: int) -> None:
        pass

    def weights(self) -> dict[str, Tensor]:
        return {"w": torch.zeros(1)}

    def state(self) -> dict[str, Any]:
        return {"of": self.name}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        pass

    def recall(self, state: dict[str, Any]) -> None:
        self.steps.append((f"{self.name} recalls {state['of']}", -1))


def test_each_arm_takes_every_step_and_each_place_equally_often() -> None:
    """Whoever steps first finds caches cold: times compare only if that is shared."""
    taken: list[tuple[str, int]] = []
    Loop([Written(name, taken) for name in "abc"], Times(6, 6), HERE).run()
    rounds = [taken[k : k + 3] for k in range(0, 18, 3)]
    assert [sorted(one) for one in rounds] == [[(name, step) for name in "abc"] for step in range(6)]
    for place in range(3):
        assert sorted(one[place][0] for one in rounds) == ["a", "a", "b", "b", "c", "c"]


def test_an_arm_that_diverged_takes_no_step_after_a_resume_either(tmp_path: Path) -> None:
    first: list[tuple[str, int]] = []
    loop = Loop([Written("a", first), Written("b", first, diverges_at=1)], Times(3, 3), HERE)
    loop.run()
    assert first.count(("b", 2)) == 0
    weights, state = loop.snapshot()
    found = checkpoint.load(checkpoint.save(tmp_path, loop.step, weights, state, None))
    second: list[tuple[str, int]] = []
    again = Loop([Written("a", second), Written("b", second)], Times(5, 5), HERE)
    again.restore(found)
    again.run()
    assert second == [("b recalls b", -1), ("a", 3), ("a", 4)]
    assert again.failed == loop.failed


def test_where_all_arms_diverge_in_readings_nothing_is_evaluated_or_said() -> None:
    class Settles(Written):
        def read(self, step: int) -> None:
            raise DivergedError("settles nowhere")

        def evaluate(self, step: int) -> None:
            raise AssertionError("it has diverged")

    said: list[int] = []
    loop = Loop([Settles("a", [])], Times(2, 1, readings=1), HERE, line=lambda step: said.append(step))
    assert loop.run() == 0
    assert said == []
    assert loop.failed[0].reason == "settles nowhere"


def test_a_reader_of_the_output_who_leaves_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), failures_explained(tmp_path, HERE):
        raise BrokenPipeError(32, "Broken pipe")
    with pytest.raises(RunError, match="No space left"), failures_explained(tmp_path, HERE):
        raise OSError(28, "No space left on device")


def test_a_signal_that_comes_too_late_for_a_run_is_handed_on_to_what_is_around_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopper() as outer:
        with Stopper() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner() == outer() == signal.SIGTERM
    with Stopper() as other:
        pass
    assert other() == 0
    assert signal.getsignal(signal.SIGTERM) is before
