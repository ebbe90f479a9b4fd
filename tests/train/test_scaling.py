"""What a rule costs on many machines, by formula and by measurement; see docs/scaling.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from problems import RULES
from train.processes import sent_bytes, small_model

W_BYTES = 4 * (2 * 4 * 9 + 64 * 3 + 3)
B_BYTES = 4 * (2 * 4 * 9 + 64 * 3)


def test_bytes_sent_a_step_are_those_of_the_formula(tmp_path: Path) -> None:
    alone = ["backprop", "feedback_alignment", "sign_symmetry", "symmetric_alignment"]
    too = ["kolen_pollack", "weight_mirror", "activation_alignment", "information_alignment"]
    expected = {**dict.fromkeys(alone, W_BYTES), **dict.fromkeys(too, W_BYTES + B_BYTES)}
    assert sent_bytes([*alone, *too], tmp_path) == expected


@pytest.mark.parametrize(
    ("rule", "parameters"), [("backprop", 0), ("sign_symmetry", 0), ("feedback_alignment", 1), ("kolen_pollack", 1)]
)
def test_bytes_of_b_are_those_of_w(rule: str, parameters: int) -> None:
    net = small_model(RULES[rule])
    held = sum(p.nbytes for name, p in net.named_parameters() if name.endswith("backward_weight"))
    assert held == parameters * B_BYTES
