"""The callback for Lightning's Trainer; skipped where Lightning is not installed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import backroads as br
from backroads.errors import ConversionError, MissingDependencyError

# First: Lightning imports only beside a torchvision that does. Skipped is what is missing, and not what is broken.
callbacks: Any = pytest.importorskip("backroads.contrib.lightning", exc_type=MissingDependencyError)
pl: Any = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("default")  # Lightning warns of its own dependencies

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "with_lightning.py"
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Module(pl.LightningModule):
    """One layer with B under symmetric alignment, at a rate of 0; what its gradients were is kept."""

    def __init__(self, rule: str | None = "symmetric_alignment") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        self.seen: list[Any] = []
        if rule is not None:
            br.convert(self.net, rule)

    def training_step(self, batch: Any, index: int) -> Any:
        return self.net(batch[0]).square().mean()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        layer = self.net[2]
        self.seen.append((layer.backward_weight.grad.clone(), layer.alignment_scale))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(module: Any, folder: Path, every: int = 1, **options: Any) -> Any:
    torch.manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.randn(16, 3))
    trainer = pl.Trainer(
        max_epochs=1, default_root_dir=folder, callbacks=[callbacks.FeedbackCallback(every)], **QUIET, **options
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, 4))
    return trainer


def test_the_example_learns_logs_and_its_checkpoint_holds_b(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    model, trainer = example["train"](epochs=3, folder=str(tmp_path), accumulate=2)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["loss"] < 0.5  # from log 4 = 1.4
    assert set(logged) >= {f"{metric}/net.{i}" for metric in ("weight_angle", "norm_ratio") for i in (0, 2, 4)}
    assert logged["weight_angle/net.2"] < 10
    (path,) = tmp_path.rglob("*.ckpt")
    again = type(model).load_from_checkpoint(path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("passes", [1, 4])
def test_accumulation_needs_no_factor_and_has_the_gradient_of_one_batch(passes: int, tmp_path: Path) -> None:
    module = Module()
    fit(module, tmp_path, accumulate_grad_batches=passes)
    layer = module.net[2]
    assert len(module.seen) == 4 // passes
    for gradient, scale in module.seen:
        assert scale is None
        torch.testing.assert_close(gradient, (layer.backward_weight - layer.weight).detach())


def test_any_optimiser_of_w_trains_and_stands_in_the_checkpoint(tmp_path: Path) -> None:
    module = Module()
    module.on_before_optimizer_step = lambda optimizer: None
    module.configure_optimizers = lambda: br.optimiser(module.net, torch.optim.RMSprop, lr=1e-4)
    trainer = fit(module, tmp_path)
    assert max(br.metrics.weight_angles(module.net).values()) < 1
    path = tmp_path / "again.ckpt"
    trainer.save_checkpoint(path)
    again = Module()
    again.on_before_optimizer_step = lambda optimizer: None
    again.configure_optimizers = lambda: br.optimiser(again.net, torch.optim.RMSprop, lr=1e-4)
    torch.manual_seed(1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(16, 3)), 4)
    longer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, **QUIET)
    longer.fit(again, data, ckpt_path=path, weights_only=False)
    assert longer.global_step == 8
    steps = [float(state["step"]) for state in longer.optimizers[0].state.values() if "step" in state]
    assert steps == [8.0] * 4  # those of W's optimiser, with the four before


@pytest.mark.parametrize("passes", [1, 2])
def test_a_loss_scaler_and_compiled_layers_get_the_factor_that_makes_the_gradient_right(
    passes: int, tmp_path: Path
) -> None:
    from lightning.pytorch.plugins import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    module = Module()
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    fit(module, tmp_path, accumulate_grad_batches=passes, plugins=[plugin])
    layer = module.net[2]
    for gradient, scale in module.seen:
        assert scale == 8.0 / passes
        torch.testing.assert_close(gradient, (layer.backward_weight - layer.weight).detach())


def test_layers_that_do_not_count_their_passes_get_a_factor() -> None:
    module = Module()
    watch = callbacks.Watch()
    for compiled, passes, expected in ((False, 4, None), (True, 1, None), (True, 4, 0.25)):
        if compiled:
            module.net._compiled_call_impl = module.net._call_impl  # as Module.compile leaves it
        watch.scale(module, passes)
        assert module.net[0].alignment_scale == expected
    for hint in ("_compiler_ctx", None):  # as Lightning leaves a module that torch.compile has wrapped; a word of HF's
        module = Module()
        if hint:
            setattr(module, hint, {"compiler": "dynamo"})
        watch.scale(module, 4, compiled=hint is None)
        assert module.net[0].alignment_scale == 0.25


def test_a_loss_scaler_that_falls_back_to_1_takes_its_factor_with_it() -> None:
    module, watch = Module(), callbacks.Watch()
    for scale in (2.0, 1.0):
        watch.scale(module, 1, torch.amp.GradScaler("cpu", init_scale=scale))
        assert module.net[0].alignment_scale == scale


@pytest.mark.parametrize("value", [1e5, 1e-5, float("nan")])
def test_a_b_that_leaves_its_range_stops_the_training(value: float, tmp_path: Path) -> None:
    module = Module("feedback_alignment")
    module.on_before_optimizer_step = lambda optimizer: None
    with torch.no_grad():
        module.net[0].backward_weight.mul_(value)
    with pytest.warns(UserWarning, match=r"training stops.*net\.0: \|B\| / \|W\| = "):
        trainer = fit(module, tmp_path)
    assert trainer.global_step == 1


def test_a_b_a_factor_of_ten_away_is_told_once_and_training_goes_on(tmp_path: Path) -> None:
    module = Module("feedback_alignment")
    module.on_before_optimizer_step = lambda optimizer: None
    with torch.no_grad():
        module.net[0].backward_weight.mul_(20)
    with pytest.warns(UserWarning, match=r"left the range of 0\.1 to 10 times W: net\.0: \|B\| / \|W\| = ") as told:
        trainer = fit(module, tmp_path)
    assert trainer.global_step > 1
    assert sum("range" in str(warning.message) for warning in told) == 1


def test_a_plain_model_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"call br\.convert"):
        fit(Module(None), tmp_path)
