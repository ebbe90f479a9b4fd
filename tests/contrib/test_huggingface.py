"""Models, adapters and the Trainer of transformers; skipped where it is not installed."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import backroads as br
from backroads.errors import ConversionError, MissingDependencyError, StateError, UsageError

# First: transformers imports only beside a torchvision that does. Skipped is what is missing, and not what is broken.
huggingface: Any = pytest.importorskip("backroads.contrib.huggingface", exc_type=MissingDependencyError)
transformers: Any = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("default")  # these packages warn of each other

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "with_huggingface.py"
TOKENS = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(0))


def gpt2() -> Any:
    torch.manual_seed(0)
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, **drop
    )
    return transformers.GPT2LMHeadModel(config)


def classifier(kind: str) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "bert":
        return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, num_labels=3, **sizes))
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes)
    return transformers.ViTForImageClassification(config)


INPUTS = {"bert": {"input_ids": TOKENS}, "vit": {"pixel_values": torch.ones(3, 3, 8, 8)}}
LABELS = torch.tensor([0, 1, 2])


def test_gpt2_converts_whole_computes_the_same_and_comes_back() -> None:
    model = gpt2()
    plain = copy.deepcopy(model)
    br.convert(model, "symmetric_alignment", strict=True)
    converted = dict(br.aligned_layers(model))
    weights = {name for name, m in plain.named_modules() if type(m).__name__ in ("Conv1D", "Linear")}
    assert set(converted) == weights
    assert len(weights) == 9  # four a block, and the head
    assert torch.equal(model(TOKENS).logits, plain(TOKENS).logits)
    # The head shares W with the table of tokens, before and after; its B is its own.
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.backward_weight.shape == (50, 16)
    model(TOKENS, labels=TOKENS).loss.backward()
    for layer in converted.values():
        torch.testing.assert_close(layer.backward_weight.grad, (layer.backward_weight - layer.W).detach())
    br.revert(model)
    assert all(type(a) is type(b) for a, b in zip(model.modules(), plain.modules(), strict=True))
    assert torch.equal(model(TOKENS).logits, plain(TOKENS).logits)


def test_llama_converts_whole() -> None:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16}
    config = transformers.LlamaConfig(vocab_size=50, hidden_size=16, **sizes)
    model = br.convert(transformers.LlamaForCausalLM(config), "symmetric_alignment", strict=True)
    assert len(dict(br.aligned_layers(model))) == 2 * 7 + 1
    model(TOKENS, labels=TOKENS).loss.backward()


def test_a_vision_transformer_converts_whole() -> None:
    model = br.convert(classifier("vit"), "symmetric_alignment", strict=True)
    assert len(dict(br.aligned_layers(model))) == 1 + 2 * 6 + 1


@pytest.mark.parametrize("kind", INPUTS)
def test_direct_feedback_takes_the_logits(kind: str) -> None:
    """With the classifier named, the model's own loss; without, one of its logits, and its own is refused."""
    inner, outer = (
        br.convert(classifier(kind).eval(), "direct_feedback_alignment", generator=0, output=output)
        for output in ("classifier", None)
    )
    inner(**INPUTS[kind], labels=LABELS).loss.backward()
    torch.nn.functional.cross_entropy(outer(**INPUTS[kind]).logits, LABELS).backward()
    for (name, p), (_, q) in zip(inner.named_parameters(), outer.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, n=name: f"{n}: {m}")
    hidden = next(layer for _, layer in br.aligned_layers(inner))
    assert hidden.backward_weight.shape[0] == 3
    assert float(hidden.weight.grad.norm()) > 0
    with pytest.raises(UsageError, match="output='classifier'"):
        outer(**INPUTS[kind], labels=LABELS).loss.backward()


def test_a_language_model_under_direct_feedback_says_what_it_expected() -> None:
    with pytest.raises(UsageError, match=r"\(3, 50\) \(N, K\), got a CausalLMOutput.*use another rule"):
        br.convert(gpt2(), "direct_feedback_alignment")(TOKENS)


@pytest.mark.parametrize("shard", ["1GB", "10KB"])
@pytest.mark.parametrize("rule", ["symmetric_alignment", "mirrored_kolen_pollack"])
def test_a_folder_of_save_pretrained_keeps_b(rule: str, shard: str, tmp_path: Path) -> None:
    model = br.convert(gpt2(), rule)
    model(TOKENS, labels=TOKENS).loss.backward()
    torch.optim.SGD(br.param_groups(model, 0.1)).step()
    model.save_pretrained(tmp_path, max_shard_size=shard)
    again = br.convert(transformers.GPT2LMHeadModel.from_pretrained(tmp_path), rule)
    huggingface.load_backward_weights(again, tmp_path)
    found = again.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in model.state_dict().items())


def test_a_folder_without_b_or_of_another_shape_is_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    model = br.convert(gpt2(), "symmetric_alignment")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(StateError, match=r"it has no .*backward_weight.*plain model"):
        huggingface.load_backward_weights(model, tmp_path)
    with pytest.raises(StateError, match=r"expected model\.safetensors"):
        huggingface.load_backward_weights(model, tmp_path / "nowhere")
    br.convert(br.revert(gpt2()), "symmetric_alignment").save_pretrained(tmp_path / "b")
    path = tmp_path / "b" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    save_file({**tensors, "lm_head.backward_weight": torch.zeros(1, 16)}, path)
    with pytest.raises(StateError, match=r"lm_head\.backward_weight has shape \(1, 16\)"):
        huggingface.load_backward_weights(model, tmp_path / "b")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_example_trains_logs_and_reads_back(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    model, trainer = example["train"](steps=30, folder=str(tmp_path))
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    angles = [entry["weight_angle/lm_head"] for entry in history if "weight_angle/lm_head" in entry]
    assert losses[-1] < losses[0]
    assert len(angles) == 3
    assert angles[-1] < 20  # from about 90
    assert all(layer.alignment_scale is None for _, layer in br.aligned_layers(model))
    again = example["load"](str(tmp_path))
    assert br.metrics.weight_angles(again) == br.metrics.weight_angles(model)


def trainer_of(model: Any, folder: Path, optimiser: Any = None, **options: Any) -> Any:
    data = [{"input_ids": row, "labels": row} for row in TOKENS.repeat(4, 1)]
    arguments = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=2, report_to=[], save_strategy="no", disable_tqdm=True, **options
    )
    if optimiser is None:
        optimiser = torch.optim.AdamW(br.param_groups(model, 1e-3, optimiser="adamw"))
    return transformers.Trainer(
        model,
        arguments,
        train_dataset=data,
        optimizers=(optimiser, None),
        callbacks=[huggingface.FeedbackCallback(every=1)],
    )


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_trains_the_same_weights(reentrant: bool, tmp_path: Path) -> None:
    trained = []
    for options in (
        {},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}},
    ):
        model = br.convert(gpt2(), br.rules.weight_mirror(cadence=br.Cadence(2)), generator=0)
        trainer_of(model, tmp_path, max_steps=4, max_grad_norm=0.0, **options).train()
        trained.append(model.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, msg=lambda m, n=name: f"{n}: {m}")


def test_the_trainer_takes_any_optimiser_of_w(tmp_path: Path) -> None:
    model = br.convert(gpt2(), "symmetric_alignment", generator=0)
    optimiser = br.optimiser(model, torch.optim.RMSprop, lr=1e-3)
    trainer_of(model, tmp_path, optimiser, max_steps=30, max_grad_norm=0.0).train()
    assert max(br.metrics.weight_angles(model).values()) < 20  # from about 90; the Trainer's schedule slows B, too
    assert {g["lr"] for g in optimiser.param_groups} == {0.0}  # at its end


def test_a_b_that_leaves_its_range_stops_the_trainer(tmp_path: Path) -> None:
    model = br.convert(gpt2(), "feedback_alignment")
    with torch.no_grad():
        model.lm_head.backward_weight.mul_(1e5)
    trainer = trainer_of(model, tmp_path, max_steps=5, max_grad_norm=1.0)
    with pytest.warns(UserWarning, match=r"training stops.*lm_head: \|B\| / \|W\| = 1\.\d+e\+05"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_plain_model_and_a_frozen_one_are_noticed_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"call br\.convert"):
        trainer_of(gpt2(), tmp_path, max_steps=1).train()
    model = br.convert(gpt2(), "symmetric_alignment")
    trainer = trainer_of(model, tmp_path, max_steps=1)
    for p in br.backward_parameters(model):
        p.requires_grad_(False)
    with pytest.warns(UserWarning, match="no backward weight learns"):
        trainer.train()


# --- peft ---


def lora() -> Any:
    return pytest.importorskip("peft").LoraConfig(r=2, target_modules=["c_attn", "lm_head"], fan_in_fan_out=True)


def test_adapters_before_conversion_convert_too_and_b_goes_on_learning() -> None:
    config = lora()
    peft = pytest.importorskip("peft")
    model = br.convert(peft.get_peft_model(gpt2(), config), "symmetric_alignment", strict=True)
    layers = dict(br.aligned_layers(model))
    assert sum("lora_" in name for name in layers) == 2 * 3  # A and B of two c_attn and the head
    optimiser = torch.optim.SGD(br.param_groups(model, 0.1))
    before = {name: (layer.weight.clone(), layer.backward_weight.clone()) for name, layer in layers.items()}
    for _ in range(3):
        optimiser.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        optimiser.step()
    for name, layer in layers.items():
        W, B = before[name]
        assert torch.equal(layer.weight, W) == ("lora_" not in name), name  # the base is frozen
        assert not torch.equal(layer.backward_weight, B), name


def test_adapters_after_conversion_warn_that_no_b_learns() -> None:
    config = lora()
    config.target_modules = {"lm_head"}
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(br.convert(gpt2(), "symmetric_alignment"), config)
    with pytest.warns(UserWarning, match="no backward weight learns.*add adapters before br.convert"):
        br.param_groups(model, 0.1)
