"""The scripts of ``benchmarks``, to be tested."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> dict[str, Any]:
    """What ``benchmarks/NAME.py`` defines.

    Scripts import one another, so that their folder is on the path meanwhile. It must not stay there: it has a module
    ``search``, which processes that inherit the path would take for this folder's ``search``.
    """
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return runpy.run_path(str(BENCHMARKS / f"{name}.py"))
    finally:
        sys.path.remove(str(BENCHMARKS))
