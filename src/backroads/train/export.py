"""A trained model as others use it: plain torch weights, and a program that needs no Python of ours."""

from __future__ import annotations

import copy
import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backroads.errors import ConfigError, RunError
from backroads.methods.base import Method
from backroads.runs import checkpoint
from backroads.runs.files import write_atomically, write_json
from backroads.train.build import method_of
from backroads.train.load import load_config, load_model


class Prediction(torch.nn.Module):
    """A prepared model whose forward pass is the prediction of its method."""

    def __init__(self, model: torch.nn.Module, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, K)."""
        return self.method.predict(self.model, x)


def export(
    run: Path,
    out: Path,
    which: str = "last",
    *,
    program: bool = True,
    root: str | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Write ``model.safetensors`` (plain torch names, no backward weights), ``model.json`` and ``model.pt2``.

    The outputs of the plain model are compared with the method's predictions, bit for bit, before anything is written.
    A method that predicts by another way than the model's forward pass has that way in ``model.pt2``; its
    ``model.safetensors`` are the weights alone, and ``model.json`` says so as "predicts".

    Args:
        run: folder of the run. out: folder to write into. which: "last", or "best" on the validation part.
        program: also torch.export.
        root: folder of the data in place of the one in the settings; one batch is compared.
        trust: whether the run's settings may name code outside of the package, which is then run.

    Returns:
        What ``model.json`` says.

    Raises:
        ConfigError: no run, one that needs ``trust``, or ``out`` has these files already. StateError: no whole
            checkpoint. RunError: outputs differ (a bug), or the model cannot be exported as a program.
    """
    names = ["model.safetensors", "model.json", *(["model.pt2"] if program else [])]
    taken = [name for name in names if os.path.lexists(out / name)]
    if taken:
        raise ConfigError(f"out: {out} has {', '.join(taken)} already; choose another folder, nothing was overwritten")
    config = load_config(run, root, trust=trust)
    model, dataset, found = load_model(run, config, which)
    method = method_of(config)
    x = next(iter(dataset.evaluate.eval_batches(4)))[0]
    forward_pass = type(method).predict is Method.predict
    predictor = Prediction(copy.deepcopy(model), method)
    with torch.no_grad():
        expected = method.predict(model, x)
        plain = method.revert(model).eval()
        if forward_pass and not torch.equal(plain(x), expected):
            raise RunError("export: the plain model's outputs differ from the converted one's; please report this")
    about = {
        "model": config.model.name,
        "model_options": config.model.options,
        "classes": dataset.classes,
        "class_names": list(dataset.class_names),
        "input_shape": list(dataset.shape),
        "method": config.method.name,
        "rule": config.rule.name if config.method.name == "feedback" else None,
        "predicts": "the forward pass" if forward_pass else f"{config.method.name}, as in model.pt2",
        "step": found.manifest.step,
        "accuracy": found.manifest.score,
        "passed_over": found.passed_over,
    }
    out.mkdir(parents=True, exist_ok=True)
    if program:
        try:
            batch = torch.export.Dim("batch", min=1)
            made = torch.export.export(plain if forward_pass else predictor, (x,), dynamic_shapes=({0: batch},))
        except Exception as error:
            raise RunError(f"export: torch.export cannot trace this model: {error}; use --no-program") from error
        content = io.BytesIO()
        torch.export.save(made, content)
        write_atomically(out / "model.pt2", content.getvalue())
    write_atomically(out / "model.safetensors", checkpoint.pack(plain.state_dict()))
    write_json(out / "model.json", about)
    return about
