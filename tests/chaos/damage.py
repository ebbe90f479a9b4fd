"""Random damage to the files of a folder, and what is left of the others."""

from __future__ import annotations

import json
import os
import pickle
import random
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

WRONG: list[Any] = [None, True, -1, 1e300, 2**70, "", "a text", [], [[]], {}, {"a": 1}, [None], "\x00", "<b>"]


class _Run:
    """What a pickle would run when it is read."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def contents(folder: Path) -> dict[str, bytes]:
    """The content of each file below a folder, by its path there; links are left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def lost(before: dict[str, bytes], folder: Path, rewritten: Callable[[str], bool]) -> list[str]:
    """Files whose content is nowhere below the folder any more, under whatever name."""
    now = Counter(contents(folder).values())
    return [name for name, content in before.items() if not rewritten(name) and not now[content]]


def flip_bits(draw: random.Random, path: Path, outside: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 1, 8])):
        if content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def truncate(draw: random.Random, path: Path, outside: Path) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size + 1)])


def append(draw: random.Random, path: Path, outside: Path) -> None:
    with path.open("ab") as file:
        file.write(
            draw.choice([b"\n", b"\x00" * 7, b"{}", b"{", b"[x]\n", b"\xff\xfe", b"a = 1\n", draw.randbytes(50)])
        )


def delete(draw: random.Random, path: Path, outside: Path) -> None:
    path.unlink()


def swap(draw: random.Random, path: Path, outside: Path) -> None:
    others = [one for one in sorted(path.parent.iterdir()) if one.is_file() and one != path]
    if others:
        other = draw.choice(others)
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)


def link(draw: random.Random, path: Path, outside: Path) -> None:
    """A link to a file of the same content, or of another, or to nothing, or to itself."""
    target = outside / path.name
    if draw.random() < 0.5:
        target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(draw.choice([target, outside / "kept", outside / "nowhere", path]))


def turn_into_folder(draw: random.Random, path: Path, outside: Path) -> None:
    path.unlink()
    path.mkdir()


def put_code(draw: random.Random, path: Path, outside: Path) -> None:
    path.write_bytes(pickle.dumps(_Run(str(outside / "executed"))))


def wrong_type(draw: random.Random, path: Path, outside: Path) -> None:
    """Another value in place of one within JSON or TOML; bits of what is neither."""
    try:
        _retype(draw, path, path.read_text(encoding="utf-8"))
    except ValueError:
        flip_bits(draw, path, outside)


def _retype(draw: random.Random, path: Path, text: str) -> None:
    if path.suffix == ".toml":
        data = tomllib.loads(text)
        _replace(draw, data, [one for one in WRONG if one not in (None, [None], 2**70)])
        path.write_text(tomli_w.dumps(data), encoding="utf-8")
    elif path.suffix == ".json":
        data = json.loads(text)
        _replace(draw, data, WRONG)
        path.write_text(json.dumps(data), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = text.splitlines()
        n = draw.randrange(len(lines))
        data = json.loads(lines[n])
        _replace(draw, data, WRONG)
        lines[n] = json.dumps(data)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        raise ValueError("neither JSON nor TOML")


def _replace(draw: random.Random, data: Any, values: list[Any]) -> None:
    """One value somewhere within data, in place; sometimes a key is removed or added instead."""
    while True:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        if not keys:
            return
        key = draw.choice(keys)
        if not isinstance(data[key], dict | list) or not data[key] or draw.random() < 0.2:
            break
        data = data[key]
    if isinstance(data, dict) and draw.random() < 0.2:
        if draw.random() < 0.5:
            del data[key]
        else:
            data["unknown"] = draw.choice(values)
    else:
        data[key] = draw.choice(values)


DAMAGES: list[Callable[[random.Random, Path, Path], None]] = [
    flip_bits,
    truncate,
    append,
    delete,
    swap,
    link,
    turn_into_folder,
    put_code,
    wrong_type,
    wrong_type,
    wrong_type,
]
