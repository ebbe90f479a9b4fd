"""backroads: train neural networks without weight symmetry.

Every layer has its own backward weights B, and a learning rule, not a transpose, teaches them::

    import backroads as br

    model = br.convert(model, br.rules.symmetric_alignment())
    opt = torch.optim.SGD([{"params": br.forward_parameters(model), "lr": 0.1},
                           {"params": br.backward_parameters(model), "lr": 1.0}])
"""

from backroads import errors, functional, metrics, nn, rules
from backroads.convert import (
    Plan,
    aligned_layers,
    alignment_scale,
    backward_parameters,
    convert,
    forward_parameters,
    plan,
    revert,
)
from backroads.rules import Alignment, Noise, Operations, Rule, get_rule, list_rules, register_rule

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "Noise",
    "Operations",
    "Plan",
    "Rule",
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
    "nn",
    "plan",
    "register_rule",
    "revert",
    "rules",
]
