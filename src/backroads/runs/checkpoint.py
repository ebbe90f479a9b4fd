"""Checkpoints: written aside, flushed, renamed and checksummed, so that a crash at any moment leaves the one before.

A checkpoint is a folder ``checkpoints/step-000001234`` with ``model.safetensors`` (weights and buffers),
``state.pt`` (optimiser and counters; tensors and plain data, read with ``weights_only=True``) and ``manifest.json``
(SHA-256 of both, step, score of an evaluation at this step, and the run's settings). A folder counts only if its
manifest is there and both files are what the manifest says. Nothing in a checkpoint is executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from backroads.errors import StateError
from backroads.runs.folder import write_flushed

MODEL, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
_PREFIX, _ASIDE, _DAMAGED = "step-", ".writing-", "damaged-"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: steps done. score: of the evaluation at this step, higher is better; None if there was none.
        sha256: file name -> checksum. settings: of the run, as plain data.
    """

    step: int
    score: float | None
    sha256: dict[str, str]
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One that was read and found whole.

    Attributes:
        path: its folder. manifest: see there. model: tensors by name. state: what :func:`save` was given.
    """

    path: Path
    manifest: Manifest
    model: dict[str, Tensor]
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    model: dict[str, Tensor],
    state: dict[str, Any],
    score: float | None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        folder: the run's ``checkpoints``. step: steps done. model: a state dict. state: tensors, numbers, texts, lists
            and dicts. score: to find the best one by; None for steps without evaluation.
        settings: of the run, as JSON data.

    Raises:
        OSError: a full disk, a read-only folder; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files = {MODEL: pack(model), STATE: buffer.getvalue()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = json.dumps({"step": step, "score": score, "sha256": sums, "settings": settings or {}}, indent=2) + "\n"
    aside, target = folder / f"{_ASIDE}{step:09d}", folder / f"{_PREFIX}{step:09d}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        for name, content in {**files, MANIFEST: manifest.encode()}.items():
            write_flushed(aside / name, content)
        flush_folder(aside)
        shutil.rmtree(target, ignore_errors=True)  # one of the same step is older or damaged
        os.rename(aside, target)
        flush_folder(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` and the best (the first of the highest score), and what was cut off."""
    steps = _steps(folder)
    newest = set(steps[-keep:])
    best = best_step(folder)
    for step in steps:
        if step not in newest and step != best:
            shutil.rmtree(folder / f"{_PREFIX}{step:09d}", ignore_errors=True)
    for leftover in folder.glob(f"{_ASIDE}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def best_step(folder: Path) -> int | None:
    """The step of the checkpoint of the highest score; None if none has a score."""
    scores = []
    for step in _steps(folder):
        manifest = _read_manifest(folder / f"{_PREFIX}{step:09d}")
        if isinstance(manifest, Manifest) and manifest.score is not None:
            scores.append((manifest.score, -step))
    return -max(scores)[1] if scores else None


def newest_settings(folder: Path) -> dict[str, Any] | None:
    """The settings in the newest checkpoint whose manifest can be read; None if there is none."""
    for step in reversed(_steps(folder)):
        manifest = _read_manifest(folder / f"{_PREFIX}{step:09d}")
        if isinstance(manifest, Manifest):
            return manifest.settings
    return None


def load(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        StateError: it is truncated, altered or incomplete.
    """
    manifest = _read_manifest(path)
    if isinstance(manifest, str):
        raise StateError(f"{path}: {manifest}")
    contents = {}
    for name in (MODEL, STATE):
        try:
            contents[name] = (path / name).read_bytes()
        except OSError as error:
            raise StateError(f"{path}: cannot read {name}: {error.strerror}") from None
        if hashlib.sha256(contents[name]).hexdigest() != manifest.sha256.get(name):
            raise StateError(f"{path}: {name} is not what was written (its checksum differs)")
    try:
        state = torch.load(io.BytesIO(contents[STATE]), weights_only=True, map_location="cpu")
        return Checkpoint(path, manifest, unpack(contents[MODEL]), state)
    except (SafetensorError, RuntimeError, ValueError, KeyError, OSError, EOFError) as error:
        raise StateError(f"{path}: cannot be read: {error}") from None
    except Exception as error:  # a class of the unpickler's, raised if the file would run code
        raise StateError(f"{path}: {STATE} holds more than tensors and plain data, refused: {error}") from None


def load_newest(folder: Path, *, set_aside: bool = True) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and what is wrong with newer ones.

    Args:
        set_aside: rename damaged ones to ``damaged-...``, so that they are neither used nor lost.
    """
    problems: list[str] = []
    for step in reversed(_steps(folder)):
        path = folder / f"{_PREFIX}{step:09d}"
        try:
            return load(path), problems
        except StateError as error:
            problems.append(str(error))
            if set_aside:
                spot = path.with_name(_DAMAGED + path.name)
                shutil.rmtree(spot, ignore_errors=True)
                os.rename(path, spot)
    return None, problems


def load_best(folder: Path) -> Checkpoint:
    """The checkpoint of the highest score, or the newest if none has one; raises StateError."""
    best = best_step(folder)
    if best is not None:
        return load(folder / f"{_PREFIX}{best:09d}")
    newest, problems = load_newest(folder, set_aside=False)
    if newest is None:
        raise StateError("; ".join(problems) or f"{folder} holds no checkpoint; has the run written one?")
    return newest


def pack(tensors: dict[str, Tensor]) -> bytes:
    """A state dict as the bytes of a safetensors file: contiguous, on the CPU, a shared tensor once under each name."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return bytes(save_tensors(plain, metadata={"format": "pt"}))


def unpack(content: bytes) -> dict[str, Tensor]:
    """The inverse of :func:`pack`."""
    return dict(sorted(load_tensors(content).items()))


def flush_folder(folder: Path) -> None:
    """Wait until names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _steps(folder: Path) -> list[int]:
    found = [path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*")]
    return sorted(int(step) for step in found if step.isdigit())


def _read_manifest(path: Path) -> Manifest | str:
    """The manifest, or what is wrong with it."""
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(int(data["step"]), data["score"], dict(data["sha256"]), dict(data["settings"]))
    except OSError as error:
        return f"cannot read {MANIFEST}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
