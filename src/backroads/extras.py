"""Optional packages, imported where they are used, with the extra named where they are missing."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

import torch

from backroads.errors import MissingDependencyError

# Schemas of the operators whose shapes torchvision declares when imported, whether or not it could load them.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # kept alive: a library that is collected takes its operators along


def import_torchvision() -> ModuleType:
    """``torchvision``, beside any build of torch.

    torchvision's compiled operators fit one build of torch. Beside another, such as the CUDA wheel beside a CPU
    torch, they do not load, and torchvision means to go on without them; but it registers the shapes of ``nms`` and
    ``qnms`` without asking whether they are there, and its import ends in ``RuntimeError: operator torchvision::nms
    does not exist``. Models, data sets and transforms need none of the compiled operators. So, only after that very
    error, the two are declared (without an implementation) and torchvision is imported again; ``torchvision.ops``
    and ``torchvision.io`` then say, when called, that their operators are missing. A torchvision that fits imports
    at once and keeps its own.

    Raises:
        MissingDependencyError: if torchvision or pillow, which it needs, is not installed.
    """
    try:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            if "operator torchvision::" not in str(error) or "does not exist" not in str(error):
                raise
        _forget_half_imported()
        _declare_operators()
        with warnings.catch_warnings():
            # Of the same cause: older releases remark on the image extension, which is read by torchvision.io alone.
            warnings.filterwarnings("ignore", message="Failed to load image Python extension", category=UserWarning)
            return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name not in ("torchvision", "PIL"):
            raise
        raise MissingDependencyError(
            f"the package {error.name!r} is needed and not installed; install the extra with "
            f'pip install "backroads[vision]"'
        ) from error


def _forget_half_imported() -> None:
    """Drop what a failed import leaves: submodules that are not attributes of the package the second import makes."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
