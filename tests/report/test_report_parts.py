"""The parts of a report by themselves: numbers as text, curves, the looks of lines."""

from __future__ import annotations

import itertools
import statistics

import pytest

from backroads.report import figures, text
from backroads.report.curves import curve, missing
from backroads.report.page import words
from backroads.report.runs import Epoch


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.percent(0.98149), "98.1"),
        (text.percent(None), "–"),
        (text.points(-0.0061), "−0.6"),
        (text.points(0.0061), "+0.6"),
        (text.points(-0.0001), "0.0"),
        (text.points(None), "–"),
        (text.degrees(12.34), "12.3"),
        (text.ratio(1.2345), "1.23"),
        (text.loss(0.012345), "0.0123"),
        (text.duration(65.2), "65 s"),
        (text.duration(600), "10 min"),
        (text.duration(9000), "2.5 h"),
        (text.counted(1, "seed"), "1 seed"),
        (text.counted(3, "seed"), "3 seeds"),
        (text.listing(["a"]), "a"),
        (text.listing(["a", "b", "c"]), "a, b and c"),
        (text.ranges([3, 6, 7, 8]), "3, 6–8"),
        (text.setting([0, 1.5, "a", True]), "0, 1.5, a, true"),
        (text.setting([[1], 2]), "[[1], 2]"),
        (text.setting(None), "–"),
        (text.setting([]), "–"),
    ],
)
def test_numbers_and_lists_as_text(shown: str, expected: str) -> None:
    assert shown == expected


def test_words_break_only_inside_long_names_and_are_escaped() -> None:
    assert words("a b_c") == 'a <span class="word">b_<wbr>c</span>'
    assert words("--seeds 0") == '<span class="word">--seeds</span> 0'
    assert words("<b> x_<i>") == '&lt;b&gt; <span class="word">x_<wbr>&lt;i&gt;</span>'


def test_a_curve_is_the_mean_and_the_sample_deviation_of_the_finite_values() -> None:
    values: dict[int, list[float | None]] = {
        0: [0.1, 0.2, 0.6],
        1: [0.4, None, 0.5],
        2: [None, 0.3, None],
        3: [None, None, None],
    }
    epochs = [
        Epoch("rule", seed, epoch, eval_loss=value)
        for epoch, found in values.items()
        for seed, value in enumerate(found)
    ]

    found = curve(range(4), reversed(epochs), lambda epoch: epoch.eval_loss)

    assert found.epochs == (0, 1, 2, 3)
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert list(found.mean) == [pytest.approx(0.3), pytest.approx(0.45), 0.3, nan]
    assert list(found.spread) == [
        pytest.approx(statistics.stdev([0.1, 0.2, 0.6])),
        pytest.approx(0.1 / 2**0.5),
        nan,
        nan,
    ]
    assert [number for number, _, _ in found.known] == [0, 1, 2]
    gaps = missing(epochs, lambda epoch: epoch.eval_loss, range(5), range(3))
    assert gaps == {0: [2, 3, 4], 1: [1, 3, 4], 2: [2, 3, 4]}


def test_no_two_of_forty_lines_look_the_same() -> None:
    looks = [figures.look(number) for number in range(40)]

    assert len(set(looks)) == 40
    # Neighbours differ in more than their colour.
    for one, other in itertools.pairwise(looks):
        assert one.dashes != other.dashes
        assert one.marker != other.marker
