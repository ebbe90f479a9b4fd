"""Checkpoints: written aside, flushed, renamed and checksummed, so that a crash at any moment leaves the one before.

A checkpoint is a folder ``checkpoints/step-000001234`` with ``model.safetensors`` (weights and buffers),
``state.pt`` (optimiser and counters; tensors and plain data, read with ``weights_only=True``) and ``manifest.json``
(SHA-256 of both and of itself, step, score of an evaluation at this step, and the run's settings). A folder counts only
if its manifest is there and all three files are what was written. Nothing in a checkpoint is executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from backroads.errors import RunError, StateError
from backroads.runs.files import flush_folder, free_name, write_atomically
from backroads.runs.manifest import MANIFEST, PREFIX, Manifest, read_manifest, steps_in

MODEL, STATE = "model.safetensors", "state.pt"
_ASIDE, _REPLACED, _DAMAGED = ".writing-", ".replaced-", "damaged-"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One that was read and found whole.

    Attributes:
        path: its folder. manifest: see there. model: tensors by name. state: what :func:`save` was given.
        passed_over: what is wrong with newer ones, one line for each.
    """

    path: Path
    manifest: Manifest
    model: dict[str, Tensor]
    state: dict[str, Any]
    passed_over: tuple[str, ...] = ()


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
    put_back(folder)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files = {MODEL: pack(model), STATE: buffer.getvalue()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[MANIFEST] = Manifest(step, score, sums, settings or {}).as_json().encode()
    target = folder / f"{PREFIX}{step:09d}"
    aside, replaced = folder / f"{_ASIDE}{secrets.token_hex(8)}", folder / f"{_REPLACED}{target.name}"
    try:
        aside.mkdir()
        for name, content in files.items():
            write_atomically(aside / name, content)
        if os.path.lexists(target):  # one of the same step: it stays whole until the new one has its name
            os.rename(target, replaced)
        os.rename(aside, target)
        flush_folder(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` and the best (the first of the highest score), and what was cut off.

    Those whose manifest is damaged are set aside.
    """
    for path in steps_in(folder):
        if _manifest(path) is None:
            set_aside(path)
    best = _best(folder)
    for path in steps_in(folder)[:-keep]:
        if path != best:
            doomed = folder / f"{_ASIDE}{secrets.token_hex(8)}"
            os.rename(path, doomed)  # a checkpoint that is half deleted is none
            shutil.rmtree(doomed, ignore_errors=True)
    for leftover in folder.glob(f"{_ASIDE}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Give a damaged checkpoint another name, ``damaged-...``, so that it is neither used nor lost; returns it."""
    spot = free_name(path.with_name(_DAMAGED + path.name))
    os.rename(path, spot)
    return spot


def put_back(folder: Path) -> None:
    """Finish what :func:`save` was killed at: a checkpoint that it was about to replace gets its name back."""
    for replaced in folder.glob(f"{_REPLACED}{PREFIX}*"):
        target = folder / replaced.name.removeprefix(_REPLACED)
        if os.path.lexists(target):
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.rename(replaced, target)


def load(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        StateError: it is truncated, altered or incomplete.
    """
    manifest = read_manifest(path)
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


def put_into(model: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load the weights of a run into the model that its settings describe.

    Args:
        model: made from the run's settings. weights: its state dict. path: of the checkpoint, for the message.

    Raises:
        StateError: they do not fit: the settings are not those that the run had.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise StateError(
            f"{path}: the weights do not fit the model of the run's config.toml; put that file back as it was ({why})"
        ) from None


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, None if there is none, and what is wrong with newer ones, one line for each.

    Nothing is changed.
    """
    problems: list[str] = []
    for path in reversed(steps_in(folder)):
        try:
            return dataclasses.replace(load(path), passed_over=tuple(problems)), problems
        except StateError as error:
            problems.append(str(error))
    return None, problems


def load_best(folder: Path) -> Checkpoint:
    """The checkpoint of the highest score, or the newest if none has one; raises StateError."""
    best = _best(folder)
    return load_last(folder) if best is None else load(best)


def load_last(folder: Path) -> Checkpoint:
    """The newest whole checkpoint; raises StateError, which says what is wrong, if there is none."""
    newest, problems = load_newest(folder)
    if newest is None:
        raise StateError("; ".join(problems) or f"{folder} holds no checkpoint; has the run written one?")
    return newest


def require_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        tensors: by name. path: of the checkpoint they came from.

    Raises:
        RunError: names each tensor that does, and says how many of its numbers are not finite.
    """
    counts = {name: int((~tensor.isfinite()).sum()) for name, tensor in tensors.items()}
    bad = [f"{name}: {count} of {tensors[name].numel()}" for name, count in counts.items() if count]
    if bad:
        raise RunError(
            f"{path}: expected finite weights, and these are not (NaN or infinite): {'; '.join(bad)}; "
            f"take another checkpoint"
        )


def pack(tensors: dict[str, Tensor]) -> bytes:
    """A state dict as the bytes of a safetensors file: contiguous, on the CPU, a shared tensor once under each name."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return bytes(save_tensors(plain, metadata={"format": "pt"}))


def unpack(content: bytes) -> dict[str, Tensor]:
    """The inverse of :func:`pack`."""
    return dict(sorted(load_tensors(content).items()))


def _manifest(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except StateError:
        return None


def _best(folder: Path) -> Path | None:
    """The checkpoint of the highest score, the first of equals; None if none has a score."""
    found = [(path, manifest.score) for path in steps_in(folder) if (manifest := _manifest(path)) is not None]
    scored = [(path, score) for path, score in found if score is not None]
    return max(scored, key=lambda one: one[1])[0] if scored else None
