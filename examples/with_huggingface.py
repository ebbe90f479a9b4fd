"""A GPT-2 of transformers trained by its Trainer without weight transport, saved, and read back with its B.

::

    python examples/with_huggingface.py
"""

from __future__ import annotations

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import backroads as br
from backroads.contrib.huggingface import FeedbackCallback, load_backward_weights

RULE = br.rules.symmetric_alignment()


def gpt2() -> GPT2LMHeadModel:
    """A small GPT-2 with random weights; ``GPT2LMHeadModel.from_pretrained("gpt2")`` does as well."""
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def train(steps: int, folder: str) -> tuple[GPT2LMHeadModel, Trainer]:
    """Train on random tokens, which the model learns by heart, and save it with its B in ``folder``."""
    torch.manual_seed(0)
    tokens = torch.randint(64, (16, 32))
    data = [{"input_ids": row, "labels": row} for row in tokens]

    model = br.convert(gpt2(), RULE, strict=True)
    groups = br.param_groups(model, lr=3e-3, weight_decay=0.01, optimiser="adamw")
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=8,
        max_grad_norm=0.0,  # clipping would scale B's gradients, which do not depend on the loss, with W's
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=data,
        optimizers=(torch.optim.AdamW(groups), None),  # the Trainer makes the schedule
        callbacks=[FeedbackCallback(every=10)],
    )
    trainer.train()
    trainer.save_model(folder)
    return model, trainer


def load(folder: str) -> GPT2LMHeadModel:
    """The model that :func:`train` has saved, with its B."""
    model = br.convert(GPT2LMHeadModel.from_pretrained(folder), RULE)
    load_backward_weights(model, folder)
    return model


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        model, trainer = train(steps=100, folder=folder)
        for entry in trainer.state.log_history:
            print({key: value for key, value in entry.items() if key in ("step", "loss", "weight_angle/lm_head")})
        print(br.metrics.weight_angles(load(folder)))
