"""Named things: name -> object, never overwritten silently, misspelt names answered with the nearest one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from backroads.errors import BackroadsError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A small ordered mapping with errors that help.

    Args:
        kind: what the entries are, for messages ("rule", "model").
        error: exception class raised for unknown and duplicate names.
    """

    def __init__(self, kind: str, error: type[BackroadsError]) -> None:
        self._kind = kind
        self._error = error
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register ``entry``; raises the registry's error if the name is taken."""
        if name in self._entries:
            raise self._error(f"the {self._kind} name {name!r} is already taken; choose another name")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """The entry called ``name``; raises the registry's error with the nearest name otherwise."""
        try:
            return self._entries[name]
        except KeyError:
            raise self._error(
                f"unknown {self._kind} {name!r}.{nearest(name, self._entries)} Known: {', '.join(self._entries)}"
            ) from None

    def names(self) -> list[str]:
        """All names, in order of registration."""
        return list(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
