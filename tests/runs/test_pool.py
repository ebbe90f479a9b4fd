"""Jobs in several processes: results as they come, and an end that leaves nothing running."""

from __future__ import annotations

from pathlib import Path

import pytest

from backroads.errors import RunError
from backroads.runs.pool import in_processes


@pytest.mark.slow
def test_results_come_with_their_keys() -> None:
    found = dict(in_processes(2, pow, [(n, (n, 2)) for n in range(5)]))
    assert found == {n: n * n for n in range(5)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "error"),
    [("raise KeyboardInterrupt", KeyboardInterrupt), ("import os; os.kill(os.getpid(), 9)", RunError)],
)
def test_after_an_interrupt_what_has_not_begun_never_does(
    tmp_path: Path, wrong: str, error: type[BaseException]
) -> None:
    after = [
        f"import pathlib, time; time.sleep(0.3); pathlib.Path({str(tmp_path / str(n))!r}).touch()" for n in range(8)
    ]
    with pytest.raises(error):
        list(in_processes(1, exec, [(job, (job,)) for job in [wrong, *after]]))
    assert len(list(tmp_path.iterdir())) < 4
