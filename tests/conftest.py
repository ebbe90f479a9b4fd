"""What holds for all tests."""

from __future__ import annotations

import time
import zlib
from collections import defaultdict

import pytest
import torch

from backroads import rules

BEGIN = pytest.StashKey[float]()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws does not depend on the tests before it, nor on the process that runs it."""
    torch.manual_seed(0)


@pytest.fixture
def own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that a test registers do not outlive it."""
    monkeypatch.setattr(rules._RULES, "_entries", dict(rules._RULES._entries))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, help="begin no test later than this; those that are left are skipped")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--minutes``: one case of each test function, then one more, two, four more, ...; the slow tests last.

    Files come in the order of their checksums, and so do a function's cases: what there is time for is then of all
    folders and of all rules, not of the first ones alone.
    """
    if config.getoption("minutes") is None:
        return

    def checksum(text: str) -> int:
        return zlib.crc32(text.encode())

    functions = defaultdict(list)
    for item in items:
        functions[item.nodeid.partition("[")[0]].append(item)
    turn = {}
    for cases in functions.values():
        for rank, item in enumerate(sorted(cases, key=lambda item: checksum(item.nodeid))):
            turn[item] = rank.bit_length()
    items.sort(
        key=lambda item: (item.get_closest_marker("slow") is not None, turn[item], checksum(item.nodeid.split("::")[0]))
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[BEGIN] = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("minutes")
    if minutes is not None and time.monotonic() - item.config.stash[BEGIN] > 60 * minutes:
        pytest.skip(f"not begun in {minutes:g} minutes")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    late = [report for report in terminalreporter.stats.get("skipped", ()) if "not begun in" in str(report.longrepr)]
    if late:
        terminalreporter.write_line(f"TIME WAS UP: {len(late)} tests were not run.", red=True, bold=True)
