"""Things that are chosen by name: rules, models, data sets, methods, metrics, phases.

A name is registered once and for all, or it is an import path ``package.module:name`` of the user's own.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from backroads.errors import BackroadsError, ConfigError, nearest

T = TypeVar("T")
LONGEST_NAME = 100  # characters of what becomes a file name


def check_file_name(name: object, what: str, error: type[BackroadsError] = ConfigError) -> str:
    """``name``, if it can be the name of a file or folder: it then leads nowhere else.

    Args:
        name: what shall become a part of a path. what: it, for the message, as in "name" or "group".

    Raises:
        error: for a name that is empty, "." or "..", longer than 100 characters, or has a separator or a character that
            cannot be printed; and for what is no text.
    """
    if (
        not isinstance(name, str)
        or not name.strip(". ")  # "", "." and ".."
        or len(name) > LONGEST_NAME
        or not name.isprintable()
        or set(name) & set("/\\")
    ):
        raise error(
            f"{what}: expected a name that a file can have: 1 to {LONGEST_NAME} characters, not only dots, without / "
            f"and \\ and signs that cannot be printed; got {name!r:.200}"
        )
    return name


class Registry(Generic[T]):
    """An ordered mapping from names to objects, with error messages that name the nearest match.

    Args:
        kind: what the entries are, for messages, as in "rule" or "model".
        error: exception class that is raised for unknown and taken names.
        of: class of the entries.

    Example::

        MODELS = Registry("model", ConfigError)
        MODELS.add("mlp", "backroads.models.mlp:mlp")  # imported when it is first asked for
        MODELS.resolve("mlp")
        MODELS.resolve("torch.nn:Identity")
    """

    def __init__(self, kind: str, error: type[BackroadsError], of: Any = Callable) -> None:
        self._kind = kind
        self._error = error
        self._of = of
        self._expected = "a callable" if of is Callable else f"a {of.__name__}"
        self._entries: dict[str, T | str] = {}

    def add(self, name: str, entry: T | str) -> None:
        """Register ``entry``, an object or its import path, under ``name``.

        Raises:
            The registry's error if the name is taken, or is none: it must be a text that a file can be called by, for
            logs have it in their names, without ":", unless it ends in ":PATH" and so stands for a family of names.
        """
        if not isinstance(name, str) or not name or ":" in name.removesuffix(":PATH"):
            raise self._error(f"expected a name for a {self._kind} without ':', got {name!r}")
        check_file_name(name, f"{self._kind} name", self._error)
        if name in self._entries:
            raise self._error(f"the {self._kind} name {name!r} is already taken; choose another name")
        if not isinstance(entry, self._of) and not (isinstance(entry, str) and ":" in entry):
            raise self._error(f"{self._kind} {name!r}: expected {self._expected} or its import path, got {entry!r}")
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """The entry called ``name``; raises the registry's error with the nearest name if there is none."""
        self.check(name)
        if name not in self._entries:
            raise self._error(
                f"unknown {self._kind} {name!r}.{nearest(name, self._entries)} Known: {', '.join(self._entries)}"
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._entries[name] = self._import(entry)
        return entry

    def resolve(self, name: str) -> T:
        """The entry called ``name``, or the object that the import path ``package.module:name`` stands for.

        Raises:
            The registry's error for an unknown name, and for a path whose module cannot be imported, does not have
            the name, or has something else there.
        """
        self.check(name)
        return self._import(name) if ":" in name else self.get(name)

    def check(self, name: object) -> None:
        """Raise the registry's error if ``name`` is no text, as a name or path has to be."""
        if not isinstance(name, str):
            raise self._error(
                f"expected the name of a {self._kind} or package.module:callable, got {name!r} of type "
                f"{type(name).__name__}. Known: {', '.join(self._entries)}"
            )

    def __iter__(self) -> Iterator[str]:
        """All registered names, in order of registration. Nothing is imported."""
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def _import(self, path: str) -> T:
        module, _, name = path.partition(":")
        try:
            found = importlib.import_module(module)
        except BackroadsError:
            raise
        except Exception as error:  # whatever the user's module raises
            raise self._error(
                f"{self._kind} {path!r}: cannot import {module!r} ({type(error).__name__}: {error}); expected a name "
                f"or package.module:callable with the module installed or its folder on PYTHONPATH."
                f"{nearest(path, self._entries)} Known: {', '.join(self._entries)}"
            ) from error
        entry = getattr(found, name, None)
        if not isinstance(entry, self._of):
            there = hasattr(found, name)
            has, hint = ("has", "") if there else ("has no", nearest(name, dir(found)))
            raise self._error(f"{self._kind} {path!r}: {module} {has} {name!r}, expected {self._expected}.{hint}")
        return cast("T", entry)


def call(make: Callable[..., Any], given: Mapping[str, Any], options: Mapping[str, Any], what: str) -> Any:
    """Call ``make`` with those of the ``given`` arguments that its signature has, and with all ``options``.

    Args:
        make: a callable of the user's own, whose signature decides what it gets.
        given: what it may ask for, by name.
        options: what the user asks for, by name; they take precedence.
        what: the callable, for messages, as in "model 'mlp'".

    Raises:
        ConfigError: for an option that the signature does not have, with the nearest name.
    """
    try:
        parameters = dict(inspect.signature(make).parameters)
    except (TypeError, ValueError):  # some builtins have none
        parameters = {}
    takes_all = not parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [key for key in options if key not in parameters and not takes_all]
    if unknown:
        known = [key for key in parameters if key not in given]
        raise ConfigError(
            f"{what} takes no option {unknown[0]!r}.{nearest(unknown[0], known)} It takes: {', '.join(known) or 'none'}"
        )
    return make(**{**{key: value for key, value in given.items() if key in parameters}, **options})
