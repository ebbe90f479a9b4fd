"""Whether the tests see realistic mistakes: each row of mutations.toml is made in a copy, and its tests are run.

A mutation that no test sees has survived: what it changes is held by nothing. Rows are chosen by hand, for what goes
wrong in practice; generated mutations (mutmut, cosmic-ray) are thousands, most of them alike, and take days here.

    python benchmarks/mutations.py                  all of them, into results/mutations.json
    python benchmarks/mutations.py --only angle     those with the word in group, name or file; the other rows stay

The exit status is 1 if a mutation survived, and 2 if the table is stale or the tests fail without any mutation.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NoReturn

from backroads.runs.environment import environment
from backroads.runs.folder import write_json

ROOT = Path(__file__).parents[1]
SOURCE = Path("src/backroads")
RESULTS = ROOT / "benchmarks/results/mutations.json"
LIMIT = 600.0  # seconds for the tests of a mutation; one that hangs is seen


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A mistake.

    Attributes:
        group: part of the library. name: what goes wrong. file: below ``src/backroads``.
        old: text that occurs once in the file. new: what stands in its place.
        tests: files of tests that should see it, the likeliest first.
    """

    group: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def mutated(self, root: Path = ROOT) -> str:
        """The content of the file with the mistake in it; raises ValueError unless ``old`` occurs exactly once."""
        text = (root / SOURCE / self.file).read_text(encoding="utf-8")
        if (n := text.count(self.old)) != 1:
            raise ValueError(f"stale: {self.name}: expected its old text once in {self.file}, found it {n} times")
        return text.replace(self.old, self.new)


def table() -> list[Mutation]:
    """The rows of mutations.toml."""
    rows = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["mutation"]
    return [Mutation(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def run_tests(copy: Path, tests: list[str]) -> str | None:
    """The first test in a copy that fails, or what else went wrong; None if all pass."""
    variables = {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "a test that hangs"
    if process.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    return found[1] if found else f"pytest, status {process.returncode}: {output.strip()[-300:]}"


def leave(why: str) -> NoReturn:
    """Say why there is no result."""
    print(f"mutations: {why}; mend that first", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[""], help="words in group, name or file of the mutations to run")
    given = parser.parse_args()
    chosen = [one for one in table() if any(word in f"{one.group}: {one.name} {one.file}" for word in given.only)]
    where, rows = environment(), dict[str, dict[str, str | None]]()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "_build"))
        try:
            contents = [one.mutated() for one in chosen]
        except ValueError as error:
            leave(str(error))
        for n, (one, content) in enumerate(zip(chosen, contents, strict=True), 1):
            path = copy / SOURCE / one.file
            right = path.read_bytes()
            path.write_text(content, encoding="utf-8")
            by = run_tests(copy, list(one.tests))
            path.write_bytes(right)
            rows[one.name] = {"group": one.group, "file": one.file, "caught_by": by, "commit": where["commit"]}
            print(f"[{n}/{len(chosen)}] {one.group}: {one.name}: {by or 'SURVIVED'}", flush=True)
        seen = sorted({by for row in rows.values() if (by := row["caught_by"]) is not None and "::" in by})
        if seen and (wrong := run_tests(copy, seen)):
            leave(f"{wrong} fails without any mutation, too")
    survivors = [name for name, row in rows.items() if row["caught_by"] is None]
    print(*(f"SURVIVED: {name}" for name in survivors), sep="\n")
    print(f"{len(rows) - len(survivors)} of {len(rows)} mutations were seen")
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["mutations"] if RESULTS.exists() else {}
    both = {one.name: row for one in table() if (row := rows.get(one.name, known.get(one.name)))}
    lasting = sum(row["caught_by"] is None for row in both.values())
    write_json(RESULTS, {"environment": where, "n": len(both), "survived": lasting, "mutations": both})
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
