"""Numbers and lists as a reader wants them."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files

from backroads.runs.quantity import Quantity

DASH = "\N{EN DASH}"
"""Stands for a number that is missing."""

MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"


@functools.cache
def _captions() -> dict[str, str]:
    return tomllib.loads((files("backroads.report") / "templates" / "captions.toml").read_text("utf-8"))


def caption(name: str, **values: object) -> str:
    """The text of this name in ``templates/captions.toml`` with ``values`` in place of its braces."""
    return _captions()[name].format(**values)


def percent(fraction: float | None) -> str:
    """``0.981`` as ``98.1``."""
    return DASH if fraction is None else _fixed(100 * fraction)


def points(fraction: float | None) -> str:
    """``-0.006`` as ``−0.6`` and ``0.006`` as ``+0.6``: percentage points with their sign."""
    if fraction is None:
        return DASH
    text = _fixed(100 * fraction)
    return text if text.startswith(MINUS) or text == "0.0" else f"+{text}"


def degrees(angle: float | None) -> str:
    """``12.34`` as ``12.3``."""
    return DASH if angle is None else _fixed(angle)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits: a loss, a rate."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.{digits}g}".replace("-", MINUS)


def probability(p: float | None) -> str:
    """``0.0432`` as ``0.043``, and what is smaller than a thousandth as ``< 0.001``."""
    return DASH if p is None else "< 0.001" if p < 1e-3 else f"{p:.2g}"


def measured(value: float | None, quantity: Quantity) -> str:
    """A reading with its unit, as text: degrees with a decimal, others with three digits."""
    if quantity.unit == "degrees":
        return degrees(value)
    return number(value) + ("" if value is None or quantity.unit in ("", "%") else f" {quantity.unit}")


def head(quantity: Quantity) -> str:
    """The name of a metric with its unit, as it stands over a column: ``Weight angle, °``."""
    return capital(quantity.title) + {"": "", "degrees": ", °"}.get(quantity.unit, f", {quantity.unit}")


def short(value: float) -> str:
    """``20000`` as ``20k`` and ``0.0001`` as ``1e−4``: a label for a narrow axis."""
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-3:
        mantissa, _, power = f"{value:.1e}".partition("e")
        text = f"{mantissa.removesuffix('.0')}e{int(power)}"
    else:
        unit, letter = next(((u, letter) for u, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")) if size >= u), (1.0, ""))
        text = f"{value / (1e3 if letter == 'k' else unit):.4g}{letter}"
    return text.replace("-", MINUS)


def plain(value: float) -> str:
    """``3`` as ``3`` and ``2.456`` as ``2.46``."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """A time in the unit that gives it a short number."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """``1 seed`` or ``3 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(words: Sequence[str]) -> str:
    """``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def some(words: Sequence[str], most: int) -> str:
    """Like :func:`listing`, but names no more than ``most`` and counts the others."""
    return listing(words) if len(words) <= most else listing([*words[:most], f"{len(words) - most} more"])


def ranges(numbers: Sequence[int], most: int = 12) -> str:
    """Sorted whole numbers with runs joined: ``3, 6–15``; beyond so many runs the other numbers are counted."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]}{DASH}{run[-1]}" for run in runs[:most]]
    return ", ".join(shown) + (f" and {sum(map(len, runs[most:]))} more" if runs[most:] else "")


def setting(value: object) -> str:
    """The value of a setting."""
    if value is None:
        return DASH
    if isinstance(value, list) and not any(isinstance(part, list | dict) for part in value):
        return ", ".join(setting(part) for part in value) or DASH
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


_TITLES = {
    "resnet": "ResNet",
    "vgg": "VGG",
    "vit": "ViT",
    "mlp": "MLP",
    "lenet": "LeNet",
    "alexnet": "AlexNet",
    "cifar": "CIFAR",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "imagenet": "ImageNet",
    "omniglot": "Omniglot",
    "digits": "handwritten digits",
    "digits_conv": "a small convolutional network",
    "flp": "FLP",
    "oml": "OML",
    "dfa": "direct feedback alignment",
    "sinusoid": "sinusoids",
}


def title(name: str) -> str:
    """A name of the settings as a person writes it, such as ``ResNet-8`` for ``resnet8``; paths stay as they are."""
    if name in _TITLES:
        return _TITLES[name]
    found = re.fullmatch(r"([a-z_]+?)(\d*)", name)
    if found is None:
        return name
    return f"{_TITLES[found[1]]}-{found[2]}" if found[1] in _TITLES else name.replace("_", " ")


def capital(sentence: str) -> str:
    """With a capital letter at the beginning."""
    return sentence[:1].upper() + sentence[1:]


def _fixed(value: float) -> str:
    """With one decimal, and no zero below zero."""
    text = f"{value:.1f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)
