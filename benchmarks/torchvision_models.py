"""Does every classification model of torchvision take a training step under every named rule?

One row a model and rule: build, convert, one step of plain SGD on W and on B, revert. Weights are freshly initialised
and inputs are noise, so the losses say nothing but that the numbers are finite::

    OMP_NUM_THREADS=1 python benchmarks/torchvision_models.py --out benchmarks/results/torchvision.json
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import backroads as br
from backroads.extras import import_torchvision
from backroads.runs.environment import environment

ROOT = Path(__file__).resolve().parents[1]
CLASSES, BATCH, RATE = 10, 2, 1e-3
MEMORY_GIB, SECONDS = 24, 180  # a model that needs more is not run, and its rows say so

# What a model's constructor and input need, by the beginning of its name; the longest that fits counts.
# 64 pixels leave the last batch norm of every network here more than one position; Inception's auxiliary head and
# MaxViT's partition size need more, and the position embeddings of a ViT are made for one number of patches.
_SIZES = {"": 64, "inception": 299, "maxvit": 224, "vit_b_16": 32, "vit_l_16": 32, "vit_h_14": 28}
_OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "googlenet": {"aux_logits": True, "init_weights": True},
    "inception": {"aux_logits": True, "init_weights": True},
    "vit": {"image_size": None},  # filled in with the size
}


def model_names() -> list[str]:
    """All classification models of torchvision."""
    models = import_torchvision().models
    return list(models.list_models(module=models))


def build(name: str, classes: int = CLASSES) -> tuple[torch.nn.Module, int]:
    """The model in training mode, freshly initialised from a seed, and the side of its square input."""
    size = _longest_prefix(_SIZES, name)
    options = dict(_longest_prefix(_OPTIONS, name))
    if "image_size" in options:
        options["image_size"] = size
    torch.manual_seed(0)
    model = import_torchvision().models.get_model(name, weights=None, num_classes=classes, **options).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            module.reset_parameters()  # a head of zeros (ViT) sends nothing back where B is W or has its signs
    return model, size


def classification_loss(output: Any, labels: Tensor) -> Tensor:
    """Cross entropy, with that of auxiliary heads (the further fields of a named tuple) at 0.3."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output, labels)
    main, *auxiliary = output
    return F.cross_entropy(main, labels) + 0.3 * sum(F.cross_entropy(head, labels) for head in auxiliary)


def step(model: torch.nn.Module, rule: br.FeedbackRule, size: int, classes: int = CLASSES) -> dict[str, Any]:
    """Convert, take one step of SGD, put W back and revert; what was found on the way.

    Returns:
        Plain data: ``layers`` (converted), ``transporting`` (modules that could not be), ``loss`` before and
        ``loss_after`` the step, ``*_finite``, ``first_gradient`` (norm of dW in the first converted layer), and
        seconds of the processor, which a machine that does other things beside does not change much.
    """
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 3, size, size, generator=generator)
    labels = torch.randint(classes, (BATCH,), generator=generator)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        br.convert(model, rule, generator=2)
    row: dict[str, Any] = {"convert_seconds": time.process_time() - start}
    row["warned"] = [str(w.message) for w in caught]
    layers = [layer for _, layer in br.aligned_layers(model)]
    W, B = br.forward_parameters(model), br.backward_parameters(model)
    before = [p.data for p in W]
    try:
        start = time.process_time()
        torch.manual_seed(3)  # dropout and stochastic depth
        loss = classification_loss(model(x), labels)
        loss.backward()
        row["loss"] = loss.item()
        row["W_gradients_finite"], row["B_gradients_finite"] = _gradients_finite(W), _gradients_finite(B)
        row["gradients_missing"] = sum(p.grad is None for p in (*W, *B) if p.requires_grad)
        gradient = layers[0].weight.grad
        row["first_gradient"] = 0.0 if gradient is None else gradient.norm().item()
        _descend((*W, *B), RATE)
        row["seconds"] = time.process_time() - start
        row["W_finite"], row["B_finite"] = _finite(W), _finite(B)
        torch.manual_seed(3)
        with torch.no_grad():
            row["loss_after"] = classification_loss(model(x), labels).item()
    finally:
        br.revert(model)
        for p, data in zip(W, before, strict=True):  # every rule starts from the same W
            p.data, p.grad = data, None
    row["layers"] = len(layers)
    return row


def problems(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, in words; empty for a good one and for one that says why it was not run."""
    if "skipped" in row:
        return []
    if "error" in row:
        return [row["error"]]
    found = [key for key in row if key.endswith("_finite") and not row[key]]
    found += [key for key in ("loss", "loss_after") if not math.isfinite(row[key])]
    if row["first_gradient"] == 0:
        found.append("the first layer's W has a gradient of 0")
    if row["gradients_missing"]:
        found.append(f"{row['gradients_missing']} parameters have no gradient")
    if bool(row["warned"]) != (row["transporting"] > 0):
        found.append(f"{row['transporting']} modules still transport weights, and the warnings are {row['warned']}")
    return found


def check_model(name: str, rules: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """One row for each rule (all named ones by default), with one build of the model. Never raises."""
    rules = br.list_rules() if rules is None else rules
    try:
        model, size = build(name)
    except Exception as error:
        yield from ({"model": name, "rule": rule, "error": f"build: {error!r}"} for rule in rules)
        return
    parameters = sum(p.numel() for p in model.parameters())
    needed = 4 * parameters * 4 / 2**30  # W, B and their gradients in float32
    refused = br.plan(model, "backprop").select("cannot convert")
    slow: str | None = None
    for rule in rules:
        row = {"model": name, "rule": rule, "parameters": parameters, "input": [BATCH, 3, size, size]}
        row["transporting"] = len(refused)
        if needed > MEMORY_GIB:
            yield row | {"skipped": f"needs about {needed:.0f} GiB, more than {MEMORY_GIB}"}
            continue
        if slow:
            yield row | {"skipped": slow}
            continue
        try:
            row |= step(model, br.get_rule(rule), size)
        except Exception as error:
            row["error"] = repr(error)
            br.revert(model)
        if row.get("convert_seconds", 0) + row.get("seconds", 0) > SECONDS:
            slow = f"rule {rule} took more than {SECONDS} s"
        yield row
    del model
    gc.collect()


def provenance() -> dict[str, Any]:
    """Where the numbers come from."""
    return {**environment(), "torchvision": import_torchvision().__version__}


def _longest_prefix(table: dict[str, Any], name: str) -> Any:
    return table[max((prefix for prefix in table if name.startswith(prefix)), key=len)]


def _finite(parameters: Sequence[Tensor]) -> bool:
    return all(bool(p.detach().isfinite().all()) for p in parameters)


def _gradients_finite(parameters: Sequence[Tensor]) -> bool:
    return _finite([p.grad for p in parameters if p.grad is not None])


def _descend(parameters: Sequence[torch.nn.Parameter], rate: float) -> None:
    """Plain SGD. The old values are left alone, and each gradient is freed for the new ones."""
    for p in parameters:
        if p.grad is not None:
            p.data, p.grad = torch.sub(p.data, p.grad, alpha=rate), None


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["model"], row["rule"]


def _rounded(value: Any) -> Any:
    """Four digits; JSON has no infinity and no NaN, so these become words."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "torchvision.json")
    parser.add_argument("--models", nargs="*", help="names; all by default")
    parser.add_argument("--rules", nargs="*", help="names; all by default. Rows of others that --out has are kept")
    arguments = parser.parse_args()

    result: dict[str, Any] = {"provenance": provenance(), "rows": []}
    if arguments.rules and arguments.out.is_file():
        old = json.loads(arguments.out.read_text())
        result = {"provenance": old["provenance"] | {", ".join(arguments.rules): provenance()}, "rows": old["rows"]}
    bad = 0
    names = arguments.models or model_names()
    for i, name in enumerate(names, 1):
        for row in check_model(name, arguments.rules):
            row["ok"] = "skipped" not in row and not problems(row)
            row = {key: _rounded(value) for key, value in row.items()}
            # The warnings name every module; that they came is what the row is for.
            row["warned"] = bool(row.get("warned"))
            bad += not row["ok"]
            same = [key for key, old in enumerate(result["rows"]) if _key(old) == _key(row)]
            if same:
                result["rows"][same[0]] = row
            else:
                result["rows"].append(row)
            note = row.get("skipped") or row.get("error") or f"loss {row['loss']}, {row['seconds']} s"
            print(f"[{i}/{len(names)}] {name} {row['rule']}: {'ok' if row['ok'] else 'NOT OK'}, {note}", flush=True)
        result["rows"].sort(key=lambda row: (row["model"], br.list_rules().index(row["rule"])))
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join("  " + json.dumps(row) for row in result["rows"])  # a line a row
        head = json.dumps(result["provenance"], indent=1)
        arguments.out.write_text(f'{{"provenance": {head},\n"rows": [\n{lines}\n]}}\n')
    print(f"{len(result['rows'])} rows, {bad} not ok or skipped")


if __name__ == "__main__":
    main()
