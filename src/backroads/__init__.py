"""backroads: train neural networks without weight symmetry.

Every layer has its own backward weights B, and a learning rule, not a transpose, teaches them::

    import backroads as br

    model = br.convert(model, br.rules.symmetric_alignment())
    opt = torch.optim.SGD(br.param_groups(model, lr=0.1, momentum=0.9, weight_decay=5e-4))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from backroads.errors import nearest

if TYPE_CHECKING:
    from backroads import errors, methods, metrics
    from backroads.contrib import spiking
    from backroads.data import register_dataset
    from backroads.feedback import functional, nn, rules
    from backroads.feedback.conversion import (
        Plan,
        aligned_layers,
        alignment_scale,
        backward_parameters,
        convert,
        forward_parameters,
        optimiser,
        param_groups,
        plan,
        revert,
        set_coefficients,
    )
    from backroads.feedback.rules import (
        Activity,
        Alignment,
        Cadence,
        FeedbackRule,
        Impulses,
        Operations,
        WeightEstimate,
        WhiteNoise,
        get_rule,
        list_rules,
        register_rule,
    )
    from backroads.methods import get_method, list_methods, register_method
    from backroads.metrics import register_metric
    from backroads.models import register_model
    from backroads.phases import mirror, register_phase
    from backroads.train.hardware import Device, device_model
    from backroads.train.noise import noisy
    from backroads.train.schedule import CoefficientSchedule, RateSchedule

__version__ = "0.1.0"

__all__ = [
    "Activity",
    "Alignment",
    "Cadence",
    "CoefficientSchedule",
    "Device",
    "FeedbackRule",
    "Impulses",
    "Operations",
    "Plan",
    "RateSchedule",
    "WeightEstimate",
    "WhiteNoise",
    "__version__",
    "aligned_layers",
    "alignment_scale",
    "backward_parameters",
    "convert",
    "device_model",
    "errors",
    "forward_parameters",
    "functional",
    "get_method",
    "get_rule",
    "list_methods",
    "list_rules",
    "methods",
    "metrics",
    "mirror",
    "nn",
    "noisy",
    "optimiser",
    "param_groups",
    "plan",
    "register_dataset",
    "register_method",
    "register_metric",
    "register_model",
    "register_phase",
    "register_rule",
    "revert",
    "rules",
    "set_coefficients",
    "spiking",
]

# Where the public names live. They are imported when first asked for: torch takes seconds to import, and the command
# line's ``--help`` needs none of it. A name that is listed in no place is a module of the package itself.
_PLACES = {
    "contrib": ("spiking",),
    "data": ("register_dataset",),
    "feedback": ("functional", "nn", "rules"),
    "feedback.conversion": (
        "Plan",
        "aligned_layers",
        "alignment_scale",
        "backward_parameters",
        "convert",
        "forward_parameters",
        "optimiser",
        "param_groups",
        "plan",
        "revert",
        "set_coefficients",
    ),
    "feedback.rules": (
        "Activity",
        "Alignment",
        "Cadence",
        "FeedbackRule",
        "Impulses",
        "Operations",
        "WeightEstimate",
        "WhiteNoise",
        "get_rule",
        "list_rules",
        "register_rule",
    ),
    "methods": ("get_method", "list_methods", "register_method"),
    "metrics": ("register_metric",),
    "models": ("register_model",),
    "phases": ("mirror", "register_phase"),
    "train.hardware": ("Device", "device_model"),
    "train.noise": ("noisy",),
    "train.schedule": ("CoefficientSchedule", "RateSchedule"),
}


def __getattr__(name: str) -> Any:
    place = next((place for place, names in _PLACES.items() if name in names), None)
    if name not in __all__:
        raise AttributeError(f"module 'backroads' has no attribute {name!r}.{nearest(name, __all__)}")
    if place is None or place in ("contrib", "feedback"):
        value = importlib.import_module(".".join(filter(None, ("backroads", place, name))))
    else:
        value = getattr(importlib.import_module(f"backroads.{place}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
