"""What a process sets up before it computes."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest


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
