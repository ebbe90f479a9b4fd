"""Where a number came from: versions, hardware, commit and command."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Versions, hardware, commit and command of this process, as plain data; of URLs, which may hold a password, their
    kind alone.
    """
    import backroads

    name = Path(sys.argv[0]).name
    words = [*(["python", "-m", "backroads"] if name == "__main__.py" else [name]), *sys.argv[1:]]
    commit, dirty = _commit()
    return {
        "backroads": backroads.__version__,
        "commit": commit,
        "uncommitted_changes": dirty,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "command": shlex.join(re.sub(r"(?s)://.*", "://…", word) for word in words),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the package's own checkout, and whether it has changes; None where it is not a checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
