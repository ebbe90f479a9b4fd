"""Which module gets which rule, and why: decided and printable before anything is touched."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping

import torch
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import UninitializedParameter

from backroads.errors import ConversionError, nearest
from backroads.feedback.nn.attention import MultiheadAttention, OutputProjection
from backroads.feedback.nn.layer import AlignedLayer
from backroads.feedback.nn.layers import Conv1d, Conv2d, Conv3d, Linear
from backroads.feedback.nn.projection import WithProjections
from backroads.feedback.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, weight_names
from backroads.feedback.nn.transposed import TransposedLinear, is_transposed
from backroads.feedback.rules import as_rule
from backroads.feedback.rules.base import FeedbackRule
from backroads.runs.table import aligned

CONVERT, LEAVE, REFUSE = "convert", "leave", "cannot convert"
ROOT = "(root)"
UNMATCHED = "no pattern matches it"

RuleLike = FeedbackRule | str
Rules = RuleLike | Mapping[str, RuleLike]

# Which of torch's modules become which of ours.
BY_TORCH_CLASS: dict[type[torch.nn.Module], type[AlignedLayer] | type[WithProjections]] = {
    **{cls.torch_class: cls for cls in (Linear, Conv1d, Conv2d, Conv3d, OutputProjection)},
    **{cls.torch_class: cls for cls in (MultiheadAttention, LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell)},
}
CONVERTIBLE = ", ".join([*(cls.__name__ for cls in BY_TORCH_CLASS), "transformers' Conv1D"])
# Modules that take errors back through a transpose of their own, and what can be done about each.
_TRANSPORTING: dict[type[torch.nn.Module], str] = {
    torch.nn.RNNBase: "recurrent weights; use torch's own LSTM, GRU or RNN, or write the cell with nn.Linear",
    torch.nn.RNNCellBase: "recurrent weights; use torch's own LSTM, GRU or RNN, or write the cell with nn.Linear",
    torch.nn.ConvTranspose1d: "transposed convolution; use nn.Upsample and nn.Conv1d, which converts",
    torch.nn.ConvTranspose2d: "transposed convolution; use nn.Upsample and nn.Conv2d, which converts",
    torch.nn.ConvTranspose3d: "transposed convolution; use nn.Upsample and nn.Conv3d, which converts",
    torch.nn.Bilinear: "bilinear weights; use nn.Linear of a product of features, which converts",
}
_OWN_MATRIX = "parameters of its own"
# Modules that read their children's weights without calling them (by name: the packages are optional).
_BYPASSING = {
    "torchvision.models.swin_transformer.ShiftedWindowAttention",
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One module of a plan.

    Attributes:
        name: its dotted name, or "(root)". Further names of a shared module are in ``aliases``.
        module: its class's name.
        action: "convert", "leave" or "cannot convert".
        rule: the rule it gets, or None.
        why: the reason, in words.
        transports: whether errors pass through the transpose of its weights, as far as can be known: it is not
            converted, and has matrices that its own forward pass may multiply activities by. False where a mapping has
            the rule "backprop" for it.
    """

    name: str
    module: str
    action: str
    rule: FeedbackRule | None
    why: str
    aliases: tuple[str, ...] = ()
    transports: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """What :func:`backroads.convert` would do; print it.

    Attributes:
        rows: one for each module that holds parameters or is otherwise worth a word.
    """

    rows: tuple[Row, ...]

    def select(self, action: str) -> list[Row]:
        """The rows with this action."""
        return [row for row in self.rows if row.action == action]

    @property
    def transporting(self) -> list[Row]:
        """The rows of modules that are not converted and transport weights, or may do so."""
        return [row for row in self.rows if row.transports]

    def __str__(self) -> str:
        lines = [("module", "class", "action", "rule, or why not")]
        for row in self.rows:
            rule_or_why = row.why if row.rule is None else repr(row.rule)
            lines.append((" = ".join((row.name, *row.aliases)), row.module, row.action, rule_or_why))
        converted, refused = self.select(CONVERT), self.select(REFUSE)
        summary = f"{len(converted)} of {len(self.rows)} modules get backward weights of their own"
        if refused:
            summary += f"; {len(refused)} still transport weights: {', '.join(row.name for row in refused)}"
        return "\n".join([*aligned(lines), summary])


def plan(model: torch.nn.Module, rules: Rules) -> Plan:
    """Decide, touching nothing, what :func:`backroads.convert` does with every module of ``model``.

    Args:
        model: any module.
        rules: one rule (or its name) for every layer that can be converted, or a mapping from patterns to rules.
            A pattern is matched against a module's dotted name and those of the modules that contain it (so a
            container's name stands for everything inside) with the wildcards of ``fnmatch``; the first that matches
            counts, and modules that none matches are left alone. The rule "backprop" leaves a module that cannot be
            converted as it is, knowingly.

    Raises:
        RuleError: for something that is not a rule.
        ConversionError: for a pattern that matches nothing that can be converted (with the nearest name).
    """
    return make_plan(model, rules)[0]


def make_plan(model: torch.nn.Module, rules: Rules) -> tuple[Plan, list[tuple[str, torch.nn.Module, FeedbackRule]]]:
    """The plan, and its conversions as (name, module, rule), with the outputs of direct feedback filled in."""
    if not isinstance(model, torch.nn.Module):
        raise ConversionError(f"expected a torch.nn.Module, got {type(model).__name__}")
    patterns = _read_patterns(rules)
    names: dict[torch.nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)

    rows: list[Row] = []
    work: list[tuple[str, torch.nn.Module, FeedbackRule]] = []
    used: set[str] = set()
    reached: set[str] = set()
    for module, (name, *others) in names.items():
        matches = [p for p in patterns if any(_matches(p, n) for n in (name, *others))]
        reached.update(matches)
        if _inside_refused(name, model):
            continue
        verdict = _verdict(module)
        if verdict is None:
            continue
        action, why = verdict
        rule = None
        by_backprop = bool(matches) and isinstance(rules, Mapping) and patterns[matches[0]].is_backprop
        transports = action == REFUSE or why.startswith(_OWN_MATRIX)
        if action == CONVERT:
            if not matches:
                action, why = LEAVE, UNMATCHED
            elif isinstance(module, NonDynamicallyQuantizableLinear) and _left_alone(name, model, work):
                action, why = LEAVE, "its attention is left alone, and reads its weight without calling it"
            else:
                rule = patterns[matches[0]]
                used.update(matches)
                work.append((name, module, rule))
        elif transports and by_backprop:
            action, why, transports = LEAVE, "left to backpropagation, as asked", False
            used.update(matches)
        rows.append(Row(name or ROOT, type(module).__name__, action, rule, why, tuple(others), transports))

    if isinstance(rules, Mapping):
        _check_patterns(patterns, used, reached, [n for all_names in names.values() for n in all_names])
    outputs = _outputs(work)
    work = [(name, module, rule.for_network(outputs)) for name, module, rule in work]
    return Plan(tuple(rows)), work


def refuse_aihwkit(model: torch.nn.Module) -> None:
    """Refuse a model with modules of the simulator aihwkit; raises ConversionError.

    Its layers read their array transposed on the way back, inside the simulator, where no rule reaches; and its
    ``convert_to_analog`` passes over backroads' layers, which stay digital.
    """
    for name, module in model.named_modules():
        if any(cls.__module__.partition(".")[0] == "aihwkit" for cls in type(module).__mro__):
            raise ConversionError(
                f"{name or ROOT} ({type(module).__name__}) is aihwkit's, whose layers read W transposed on the way "
                f"back and take no rule, and whose convert_to_analog leaves backroads' layers digital; leave it out: "
                f"br.convert a model of torch's layers and hold its W and B in devices by br.device_model, "
                f"or read them through arrays of aihwkit by backroads.contrib.analog.two_arrays"
            )


def _read_patterns(rules: Rules) -> dict[str, FeedbackRule]:
    if not isinstance(rules, Mapping):
        return {"*": as_rule(rules)}
    if not rules:
        raise ConversionError("expected a rule or a mapping from patterns to rules, got an empty mapping")
    for pattern in rules:
        if not isinstance(pattern, str):
            raise ConversionError(f"expected patterns that are module names, got {pattern!r}")
    return {pattern: as_rule(rule) for pattern, rule in rules.items()}


def _lineage(name: str) -> Iterator[str]:
    """A dotted name and those of the modules that contain it, innermost first."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _matches(pattern: str, name: str) -> bool:
    if not name:
        return pattern in ("", "*", ROOT)
    return any(fnmatch.fnmatchcase(part, pattern) for part in _lineage(name))


def _check_patterns(patterns: dict[str, FeedbackRule], used: set[str], reached: set[str], known: list[str]) -> None:
    for pattern in patterns:
        if pattern in reached and pattern not in used:
            raise ConversionError(
                f"the pattern {pattern!r} matches no layer that can be converted "
                f"({CONVERTIBLE}); "
                f"see br.plan(model, rule) for what each module is"
            )
        if pattern not in reached:
            raise ConversionError(
                f"the pattern {pattern!r} matches no module.{nearest(pattern, filter(None, known))} "
                f"Names are those of model.named_modules()"
            )


def _verdict(module: torch.nn.Module) -> tuple[str, str] | None:
    """(action, why) for a module by itself; None where there is nothing to say (containers, activations)."""
    if converted_class(type(module)) is not None:
        return _convertible(module)
    if isinstance(module, WithProjections):
        return LEAVE, "converted already: its projections are listed below"
    if isinstance(module, AlignedLayer):
        return LEAVE, f"converted already: {module.rule!r}"
    if _bypasses(module):
        return (
            REFUSE,
            "attention that reads its projections' weights without calling them; write it with nn.Linear calls",
        )
    for cls, why in _TRANSPORTING.items():
        if isinstance(module, cls):
            return REFUSE, why
    own = dict(module.named_parameters(recurse=False))
    if any(converted_class(cls) is not None for cls in type(module).__mro__):
        if hasattr(module, "parametrizations"):
            return REFUSE, "its weight is computed by a parametrization; remove it, then convert"
        if any(isinstance(p, UninitializedParameter) for p in own.values()):
            return REFUSE, "lazy and without weights yet; run one forward pass, then convert"
        return REFUSE, f"a subclass ({type(module).__name__}) that may compute something else; use torch's own class"
    if not own:
        return None
    if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag):
        return LEAVE, "a table of rows: its gradient needs no transpose"
    if all(p.dim() <= 1 for p in own.values()) or isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm):
        return LEAVE, "elementwise: its derivative is its own transpose, no weights are transported"
    # Of more dimensions and the first of size 1: broadcast over the batch and added, as a table of positions is.
    matrices = [name for name, p in own.items() if p.dim() == 2 or (p.dim() > 2 and len(p) > 1)]
    if not matrices:
        return LEAVE, "broadcast over the batch and added: no weights are transported"
    return LEAVE, (
        f"{_OWN_MATRIX} ({', '.join(matrices)}) used in its own forward: "
        f"if it multiplies activities by one of them as a matrix, it transports weights"
    )


def converted_class(cls: type) -> type[AlignedLayer] | type[WithProjections] | None:
    """Which class a module of class ``cls`` is converted to; None: it is not."""
    return TransposedLinear if is_transposed(cls) else BY_TORCH_CLASS.get(cls)


def _convertible(module: torch.nn.Module) -> tuple[str, str]:
    if type(module) is torch.nn.MultiheadAttention:
        stacked: object = module.in_proj_weight if module._qkv_same_embed_dim else module.q_proj_weight
        if not isinstance(stacked, torch.nn.Parameter) or not stacked.is_floating_point():
            return REFUSE, "its projections are not float Parameters; convert before quantising or parametrizing"
        return CONVERT, "query, key and value projections, each with a backward weight of its own"
    if isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase):
        for name in weight_names(module):
            W = getattr(module, name)
            if not isinstance(W, torch.nn.Parameter) or not W.is_floating_point():
                return REFUSE, f"recurrent, and its {name} is not a float Parameter; convert before changing it"
        return CONVERT, "matrices of the input and of the state, each with a backward weight of its own"
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.nn.Parameter):
        return REFUSE, "its weight is not a Parameter (weight or spectral norm by hooks?); remove that, then convert"
    if not weight.is_floating_point():
        return REFUSE, f"its weight is of dtype {weight.dtype}, not a float; convert before quantising"
    return CONVERT, "a linear map of its input by its weight"


def _bypasses(module: torch.nn.Module) -> bool:
    return any(f"{cls.__module__}.{cls.__qualname__}" in _BYPASSING for cls in type(module).__mro__)


def _inside_refused(name: str, model: torch.nn.Module) -> bool:
    """Whether a module belongs to one that cannot be converted and uses its parts in its own way."""
    for parent in list(_lineage(name))[1:] + ([""] if name else []):
        module = model.get_submodule(parent)
        if isinstance(module, WithProjections):
            continue  # converted already
        if isinstance(module, tuple(_TRANSPORTING)) or _bypasses(module):
            return True
        if isinstance(module, torch.nn.MultiheadAttention) and (_verdict(module) or ("",))[0] == REFUSE:
            return True
    return False


def _left_alone(name: str, model: torch.nn.Module, work: list[tuple[str, torch.nn.Module, FeedbackRule]]) -> bool:
    """Whether a module belongs to an attention that is not converted (parents come first in the plan)."""
    parent = model.get_submodule(name.rpartition(".")[0]) if name else None
    return isinstance(parent, torch.nn.MultiheadAttention) and not any(module is parent for _, module, _ in work)


def _outputs(work: list[tuple[str, torch.nn.Module, FeedbackRule]]) -> int | None:
    """Number of outputs of the network: those of the last layer that is converted."""
    if not work:
        return None
    last = work[-1][1]
    if isinstance(last, torch.nn.MultiheadAttention):
        return int(last.embed_dim)
    if isinstance(last, torch.nn.RNNBase):
        return (last.proj_size or last.hidden_size) * (2 if last.bidirectional else 1)
    if isinstance(last, torch.nn.RNNCellBase):
        return last.hidden_size
    weight = last.get_parameter("weight")
    return weight.shape[1] if is_transposed(type(last)) else weight.shape[0]
