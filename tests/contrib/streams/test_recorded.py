"""RFWR and LWPR agree with what was recorded of their public code, in ``compat`` mode, at every step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backroads.contrib.streams import LWPRRegressor, RFWRRegressor
from backroads.contrib.streams.base import FieldRegressor
from backroads.contrib.streams.fields import distances

REPO = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("BACKROADS_LOCAL_PARITY", REPO.parent / "shared" / "local_parity"))
LOOSE = {"1d": 1e-6, "2d_prune": 1e-8}  # where rounding is amplified
NAMES = {"lambda": "lam", "nReg": "directions"}
TRANSPOSED = {"U", "P", "SXresYres", "SSXres"}  # of LWPR, recorded as (field, n_in, direction)


def cases(kind: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / kind / "cases.json").read_text())["cases"] if FOLDER.exists() else []


def difference(found: Any, recorded: Any) -> float:
    """Relative to the largest number; where the recorded array is padded with NaN, nothing is compared."""
    recorded = np.asarray(recorded, float)
    found = np.asarray(found, float).reshape(recorded.shape)
    return float(np.nanmax(np.abs(found - recorded)) / max(np.nanmax(np.abs(recorded)), 1e-6))


def learned(model: FieldRegressor[Any], arrays: dict[str, Any], sets: int) -> dict[str, Any]:
    """Learn the stream; what was recorded of every step: numbers of fields, largest weight, blend after the update."""
    steps: dict[str, list[Any]] = {"n_rf": [], "n_pruned": [], "max_w": [], "yp": []}
    for x, y in zip(arrays["x"], arrays["y"], strict=True):
        before = model.fields_ if hasattr(model, "fields_") else []
        weights = [model._kernel()(distances(x / model._norm_in(), fields)[2])[0] for fields in before]
        pruned = list(getattr(model, "n_pruned_", [0] * sets))
        model.partial_fit(x[None], y[None])
        steps["n_rf"].append([len(fields) for fields in model.fields_])
        steps["n_pruned"].append([*model.n_pruned_])
        steps["max_w"].append([w.max() for w in weights] or [0.0] * sets)
        outputs: list[float] = []
        for k, fields in enumerate(model.fields_):
            if not weights or model.n_pruned_[k] > pruned[k]:  # the pruned field took part in the blend
                outputs += [0.0 if not weights else np.nan] * (len(y) // sets)
                continue
            some = fields.take(np.arange(len(weights[k])))
            w = np.where((weights[k] > model.cutoff) & some.trustworthy, weights[k], 0.0)
            offset, slope = some.linear()
            said = offset + ((x / model._norm_in() - some.mean_x)[:, None] @ slope)[:, 0]
            outputs += list(w @ said / w.sum() if w.any() else np.zeros(said.shape[1]))
        steps["yp"].append(np.array(outputs) * model._norm_out())
    return steps


@pytest.mark.parametrize("case", cases("rfwr"), ids=lambda case: case["id"])
def test_rfwr_meets_what_was_recorded_of_its_public_code(case: dict[str, Any]) -> None:
    arrays = {name: np.load(FOLDER / "rfwr" / case["file"])[key] for name, key in case["arrays"].items()}
    settings = dict(case["settings"])
    norm = settings.pop("norm")
    flags = {name: bool(settings.pop(name)) for name in ("diag_only", "meta")}
    kernel = settings.pop("kernel").lower()
    model = RFWRRegressor(**settings, **flags, kernel=kernel, norm_in=norm, cutoff=case["cutoff"], compat=True)
    steps = learned(model, arrays, 1)
    bound = LOOSE.get(case["id"], 1e-9)
    found = {name: getattr(model.fields_[0], NAMES.get(name[3:], name[3:])) for name in arrays if name[:3] == "rf."}
    found |= {"y_test": model.predict(arrays["x_test"]), "max_w_test": model.activation(arrays["x_test"])}
    differences = {name: difference(array, arrays[name]) for name, array in (found | steps).items()}
    assert len(model.fields_[0]) == case["n_rf_final"]
    assert max(differences.values()) < bound, differences


@pytest.mark.parametrize("case", cases("lwpr"), ids=lambda case: case["id"])
def test_lwpr_meets_what_was_recorded_of_its_public_code(case: dict[str, Any]) -> None:
    arrays = {name: np.load(FOLDER / "lwpr" / case["file"])[key] for name, key in case["arrays"].items()}
    settings = dict(case["settings"])
    flags = {name: bool(settings.pop(name)) for name in ("diag_only", "meta", "update_D")}
    model = LWPRRegressor(**settings, **flags, cutoff=case["cutoff"], compat=True)
    steps = learned(model, arrays, case["n_out"])
    value, confidence = model.predict(arrays["x_test"], return_std=True)
    found: dict[str, Any] = {
        "y_test": value,
        "max_w_test": model.activation(arrays["x_test"]),
        "J_test": model.jacobian(arrays["x_test"]),
    }
    for name in arrays:
        if name[:2] == "rf":
            output, of = name[2:].split(".")
            array = getattr(model.fields_[int(output)], NAMES.get(of, of))
            found[name] = array.swapaxes(1, 2) if of in TRANSPOSED else array
    differences = {name: difference(array, arrays[name]) for name, array in (found | steps).items()}
    assert [len(fields) for fields in model.fields_] == case["n_rf_final"]
    bound = LOOSE.get(case["id"], 1e-9)
    assert max(differences.values()) < bound, differences
    # A difference under a root, which fields of a bounded reach bring close to 0.
    assert difference(confidence, arrays["conf_test"]) < (1e-6 if settings["kernel"] == "bisquare" else bound)
