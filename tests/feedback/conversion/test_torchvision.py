"""torchvision's classification models take a training step under every rule."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from problems import OUTPUTS, RULES

import backroads as br
from backroads.errors import MissingDependencyError
from backroads.extras import import_torchvision

NAMED = br.list_rules()  # before other tests register rules of their own

try:
    torchvision = import_torchvision()
except MissingDependencyError as missing:
    pytest.skip(str(missing), allow_module_level=True)


def _benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "torchvision_models.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = _benchmark()


def _small_resnet() -> torch.nn.Module:
    block = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=OUTPUTS)


def _small_vit() -> torch.nn.Module:
    vit = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=OUTPUTS
    )
    vit.heads.head.reset_parameters()  # torchvision starts it at 0, which sends nothing back where B follows W
    return vit


def _small_swin() -> torch.nn.Module:
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=OUTPUTS
    )


def _named(name: str) -> Callable[[], torch.nn.Module]:
    return lambda: bench.build(name, OUTPUTS)[0]


# (constructor, side of the input, modules that cannot be converted). Of each idea one: squeezed convolutions, depthwise
# ones with squeeze and excitation, channel shuffling, residuals, auxiliary heads, and two kinds of attention.
QUICK: dict[str, tuple[Callable[[], torch.nn.Module], int, int]] = {
    "squeezenet1_1": (_named("squeezenet1_1"), 64, 0),
    "mobilenet_v3_small": (_named("mobilenet_v3_small"), 64, 0),
    "shufflenet_v2_x0_5": (_named("shufflenet_v2_x0_5"), 64, 0),
    "small resnet": (_small_resnet, 64, 0),
    "googlenet": (_named("googlenet"), 64, 0),
    "small vit": (_small_vit, 32, 0),
    "small swin": (_small_swin, 32, 4),
}


# The larger ones run under one rule of each kind.
KINDS = ("sign_symmetry(batch_random)", "direct_feedback_alignment", "information_alignment")
LARGE = ("shufflenet_v2_x0_5", "small resnet", "googlenet")


@functools.cache
def _quick(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return QUICK[name][0]().train()


@pytest.mark.parametrize(
    ("name", "rule"), [(name, rule) for name in QUICK for rule in (KINDS if name in LARGE else RULES)]
)
@pytest.mark.slow
def test_a_training_step_is_finite_and_reaches_the_first_layer(name: str, rule: str) -> None:
    _, size, transporting = QUICK[name]
    row = bench.step(_quick(name), RULES[rule], size, OUTPUTS)
    assert bench.problems(row | {"transporting": transporting}) == []


@pytest.mark.parametrize("name", ["small swin"])
def test_attention_that_cannot_be_converted_is_warned_of_by_name(name: str) -> None:
    model, transporting = _quick(name), QUICK[name][2]
    attention = [n for n, m in model.named_modules() if "Attention" in type(m).__name__]
    with pytest.warns(UserWarning, match="still transport weights") as caught:
        br.convert(model, "symmetric_alignment")
    try:
        assert len(caught) == 1
        assert len(attention) == transporting
        assert all(n in str(caught[0].message) for n in attention)
        inside = [n for n, _ in br.aligned_layers(model) if any(n.startswith(f"{a}.") for a in attention)]
        assert inside == []
    finally:
        br.revert(model)


def test_problems_tells_what_is_wrong_with_a_row() -> None:
    good = bench.step(_quick("squeezenet1_1"), br.rules.backprop(), 64, OUTPUTS) | {"transporting": 0}
    assert bench.problems(good) == []
    wrong = {"loss": float("nan"), "W_gradients_finite": False, "first_gradient": 0.0, "gradients_missing": 2}
    for key, value in (*wrong.items(), ("transporting", 1), ("warned", ["a warning"]), ("error", "RuntimeError()")):
        assert len(bench.problems(good | {key: value})) == 1, key


def test_the_recorded_results_have_every_named_rule_for_each_model_and_none_failed() -> None:
    path = Path(bench.__file__).parent / "results" / "torchvision.json"
    if not path.exists():
        pytest.skip("no results recorded; run benchmarks/torchvision_models.py")
    rows = json.loads(path.read_text())["rows"]
    assert [row for row in rows if not row["ok"] and "skipped" not in row] == []
    recorded: dict[str, list[str]] = {}
    for row in rows:
        recorded.setdefault(row["model"], []).append(row["rule"])
    assert {model: rules for model, rules in recorded.items() if rules != NAMED} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rule"), list(zip(bench.model_names(), itertools.cycle(NAMED), strict=False)))
def test_every_classification_model_takes_a_step(name: str, rule: str) -> None:
    """The rules take turns; benchmarks/torchvision_models.py runs each model under each."""
    (row,) = bench.check_model(name, [rule])
    assert bench.problems(row) == []
