"""Reads the folder of a search into typed values, or says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from backroads.report.files import Measured, damaged, is_kind, read_object, read_results, validated


@dataclass(frozen=True)
class Group:
    """One rule or one subset of the primitives; accuracies are fractions."""

    group: str
    planned: int
    ended: dict[str, int]
    subset: tuple[str, ...] | None = None
    best: Measured = None
    quartiles: tuple[float, float, float] | None = None
    best_slot: int | None = None
    best_params: dict[str, Any] | None = None

    @property
    def failed(self) -> int:
        """Trials that diverged, met an error, or lost their worker too often."""
        return sum(self.ended.get(kind, 0) for kind in ("diverged", "error", "lost"))


@dataclass(frozen=True)
class Trial:
    """One settled trial, in the order in which they ended."""

    slot: int
    group: str
    end: str
    value: Measured = None
    seconds: Measured = None
    params: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Results:
    """``results.json`` of ``backroads search``."""

    kind: Literal["search"]
    settings: dict[str, Any]
    planned: int
    settled: int
    running: int
    groups: tuple[Group, ...]
    trials: tuple[Trial, ...]
    importances: dict[str, dict[str, float]]
    lost_attempts: int = 0
    seconds: Measured = None


@dataclass(frozen=True)
class Promoted:
    """A trial that was trained again with fresh seeds."""

    slot: int
    group: str
    validation: Measured
    accuracies: tuple[Measured, ...]
    mean: Measured
    interval: Measured

    @property
    def diverged(self) -> int:
        """Seeds without an accuracy."""
        return sum(accuracy is None for accuracy in self.accuracies)


@dataclass(frozen=True)
class Cell:
    """A rule on another network."""

    accuracies: tuple[Measured, ...]
    mean: Measured
    interval: Measured
    lost: Measured


@dataclass(frozen=True)
class Transferred:
    """A rule on all networks."""

    group: str
    models: dict[str, Cell]


@dataclass(frozen=True)
class Search:
    """The folder of a search.

    Attributes:
        promoted, transferred: empty if that was not done. models: of the transfer, the searched one first.
    """

    environment: Mapping[str, object]
    results: Results
    promoted: tuple[Promoted, ...]
    transferred: tuple[Transferred, ...]
    models: tuple[str, ...]


_RESULTS = TypeAdapter(Results)
_PROMOTED = TypeAdapter(tuple[Promoted, ...])
_TRANSFERRED = TypeAdapter(tuple[Transferred, ...])


def is_search(folder: Path) -> bool:
    """Whether ``folder`` holds the results of a search."""
    return is_kind(folder, "search")


def read_search(folder: Path) -> Search:
    """Reads the search in ``folder``.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    results = read_results(folder, _RESULTS)
    names = [group.group for group in results.groups]
    if not names or len(set(names)) < len(names):
        raise damaged(str(folder / "results.json"), "at least one group and each once", f"the groups {names}")
    promoted = _optional(folder / "promote.json")
    transferred = _optional(folder / "transfer.json")
    return Search(
        environment=read_object(folder / "environment.json"),
        results=results,
        promoted=validated(_PROMOTED, json.dumps(promoted.get("rows", [])).encode(), str(folder / "promote.json")),
        transferred=validated(
            _TRANSFERRED, json.dumps(transferred.get("rows", [])).encode(), str(folder / "transfer.json")
        ),
        models=tuple(str(name) for name in transferred.get("models", ())),
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}
