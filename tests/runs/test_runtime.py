"""What a process sets up before it computes."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
@pytest.mark.slow
def test_memory_that_is_freed_is_used_again() -> None:
    """Activities of 16 MiB are 4,096 pages each: without it, the system clears every page in every step."""
    code = """
import resource, sys, torch
from backroads.runs.runtime import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
torch.manual_seed(0)
net = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)))
x = torch.randn(64, 16, 64, 64)
def steps(n):
    for _ in range(n):
        net(x).square().sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(-steps(4) + steps(4))
"""
    counts = {
        how: int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "as it is")
    }
    assert counts["kept"] < 0.2 * counts["as it is"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
@pytest.mark.slow
def test_no_thread_of_the_process_group_is_left_at_the_end(tmp_path: Path) -> None:
    """A thread that lets go of a tensor while Python ends aborts the process."""
    script = tmp_path / "script.py"
    script.write_text("""
from pathlib import Path
import torch
from backroads.runs.runtime import joined

def gloo():
    return sum("gloo" in each.read_text() for each in Path("/proc/self/task").glob("*/comm"))

with joined("cpu", threads=1) as runtime:
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))
    net(torch.ones(4, 3)).sum().backward()
    runtime.sum(1.0)
    runtime.add_up([torch.ones(3)])
    within = gloo()
    del net
Path(f"{runtime.rank}.txt").write_text(f"{within} {gloo()}")
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        within, after = map(int, (tmp_path / f"{rank}.txt").read_text().split())
        assert within > 0
        assert after == 0
