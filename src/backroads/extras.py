"""Packages that only a part of the library needs: imported where they are used, and the extra named if one is missing.

Imports nothing but the errors, so that the command line can answer before torch is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from backroads.errors import MissingDependencyError

# Module -> the extra of pyproject.toml that installs it.
EXTRAS = {
    "cyclopts": "cli",
    "pydantic": "cli",
    "rich": "cli",
    "sklearn": "cli",
    "tomli_w": "cli",
    "jinja2": "report",
    "matplotlib": "report",
    "optuna": "search",
    "scipy": "search",
    "torchvision": "vision",
    "PIL": "vision",
    "timm": "timm",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "psycopg": "postgresql",
    "transformers": "huggingface",
    "accelerate": "huggingface",
    "lightning": "lightning",
    "aihwkit": "analog",
}
# The extras that "all" contains; the others are installed one by one.
IN_ALL = ("cli", "report", "search")


@contextlib.contextmanager
def extra_named(purpose: str = "") -> Iterator[None]:
    """Answer the import of an optional package that is not installed with the command that installs it.

    Wrap it around imports, or around a whole command::

        with extra_named("data set 'digits'"):
            from sklearn.datasets import load_digits

    Args:
        purpose: what needs the package, to begin the message with.

    Raises:
        MissingDependencyError: if a module of :data:`EXTRAS` is not installed. Any other missing module is passed on.
    """
    try:
        yield
    except ImportError as error:
        origin = error.__cause__ or error  # cyclopts wraps what the import of a command raises
        module = (getattr(origin, "name", None) or "").partition(".")[0]
        if not isinstance(origin, ModuleNotFoundError) or module not in EXTRAS:
            raise
        raise missing(module, purpose) from error


def missing(module: str, purpose: str = "") -> MissingDependencyError:
    """The error that says which extra brings ``module``, one of :data:`EXTRAS`, and what needs it."""
    extra = EXTRAS[module]
    instead = ' (or "backroads[all]", for all commands)' if extra in IN_ALL else ""
    return MissingDependencyError(
        f"{purpose and purpose + ': '}the package {module!r} is needed and not installed; install it with "
        f'pip install "backroads[{extra}]"{instead}'
    )


# Schemas of the operators whose shapes torchvision declares when imported, whether or not it could load them.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # kept alive: a torch.library.Library that is collected takes its operators along


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
    with extra_named():
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


def prepare_torchvision() -> None:
    """Import torchvision where it is installed, so that packages which import it themselves find one that works.

    transformers and Lightning do, when they are imported, and stop at a torchvision that does not fit torch.
    """
    with contextlib.suppress(MissingDependencyError):
        import_torchvision()


def _forget_half_imported() -> None:
    """Drop what a failed import leaves: submodules that are not attributes of the package the second import makes."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
