"""``backroads inspect``: the plan and the costs."""

from __future__ import annotations

import pytest

from backroads.cli import main


def test_it_prints_the_plan_and_a_row_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    path = "backroads.feedback.rules:kolen_pollack"
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "resnet8", "--rule", "activation_alignment", "kolen_pollack", path, "--batch-size", "4"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "stage3.0.conv2" in out
    assert "8 of 15 modules get backward weights of their own" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    parameters = 0.078  # He et al.'s 6 n + 2 layers with n = 1, in millions
    assert float(rows["backprop"][1]) == pytest.approx(parameters, abs=0.005)
    assert rows["backprop"][5] == "1.00"
    assert rows[path][1:] == rows["kolen_pollack"][1:]
    # A projection and an outer product beside backprop's three products, on one example of the four.
    assert float(rows["activation_alignment"][5]) == pytest.approx(1 + 2 / 4 / 3, abs=0.02)
    assert rows["kolen_pollack"][5] == "1.00"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet8", "--rule", "kolen"], "Did you mean 'kolen_pollack'?"),
        (["resnet8", "--shape", "32"], "expected three whole numbers of 1 or more, such as 3,32,32, got '32'"),
        (["resnet8", "--batch-size", "0"], "expected a batch size"),
        (["rsenet8"], "Did you mean 'resnet8'?"),
    ],
)
def test_mistakes_get_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_with_a_method_its_plan_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["inspect", "mlp", "--shape", "1,8,8", "--method", "local_errors", "target_propagation"])
    assert left.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["block", "1", "2", "3", "output"] * 2
    assert lines[1].split()[1:3] == ["2", "1"]  # ends at the activation, learns the layer before it
    assert "the inverse of" in lines[6]
    with pytest.raises(SystemExit):
        main(["inspect", "mlp", "--rule", "backprop", "--method", "local_errors"])
    assert "expected --rule or --method, got both" in capsys.readouterr().err
