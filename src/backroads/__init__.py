"""backroads: train neural networks without weight symmetry.

Every layer has its own backward weights B, and a learning rule, not a transpose, teaches them::

    import backroads as br

    model = br.convert(model, br.rules.symmetric_alignment())
    opt = torch.optim.SGD([{"params": br.forward_parameters(model), "lr": 0.1},
                           {"params": br.backward_parameters(model), "lr": 1.0}])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from backroads.errors import nearest

if TYPE_CHECKING:
    from backroads import errors, functional, metrics, nn, rules, spiking
    from backroads.conversion import (
        Plan,
        aligned_layers,
        alignment_scale,
        backward_parameters,
        convert,
        forward_parameters,
        mirror,
        plan,
        revert,
        set_coefficients,
    )
    from backroads.rules import (
        Alignment,
        Noise,
        Operations,
        Rule,
        WeightEstimate,
        get_rule,
        list_rules,
        register_rule,
    )
    from backroads.train.noise import noisy
    from backroads.train.schedule import CoefficientSchedule, LearningRateSchedule, RateSchedule

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "CoefficientSchedule",
    "LearningRateSchedule",
    "Noise",
    "Operations",
    "Plan",
    "RateSchedule",
    "Rule",
    "WeightEstimate",
    "__version__",
    "aligned_layers",
    "alignment_scale",
    "backward_parameters",
    "convert",
    "errors",
    "forward_parameters",
    "functional",
    "get_rule",
    "list_rules",
    "metrics",
    "mirror",
    "nn",
    "noisy",
    "plan",
    "register_rule",
    "revert",
    "rules",
    "set_coefficients",
    "spiking",
]

# Where the public names live. They are imported when first asked for: torch takes seconds, and the command line's
# ``--help`` needs none of it.
_PLACES = {
    **dict.fromkeys(
        (
            "Alignment",
            "Noise",
            "Operations",
            "Rule",
            "WeightEstimate",
            "get_rule",
            "list_rules",
            "register_rule",
        ),
        "rules",
    ),
    "noisy": "train.noise",
    **dict.fromkeys(("CoefficientSchedule", "LearningRateSchedule", "RateSchedule"), "train.schedule"),
    **dict.fromkeys(
        (
            "Plan",
            "aligned_layers",
            "alignment_scale",
            "backward_parameters",
            "convert",
            "forward_parameters",
            "mirror",
            "plan",
            "revert",
            "set_coefficients",
        ),
        "conversion",
    ),
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(importlib.import_module(f"backroads.{_PLACES[name]}"), name)
    elif name in __all__:
        value = importlib.import_module(f"backroads.{name}")
    else:
        raise AttributeError(f"module 'backroads' has no attribute {name!r}.{nearest(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
