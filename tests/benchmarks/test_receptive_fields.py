"""``benchmarks/receptive_fields.py``: what the rules find in mixtures whose sources are known, and its measures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scripts
import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.methods.hebbian import Hebbian

D = torch.float64
N, SOURCES = 20_000, 6


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return scripts.script("receptive_fields")


def mixture(sparse: bool) -> tuple[Tensor, Tensor]:
    """Samples (N, 6) = s A^T of sources of variance 1, Laplacian (sparse) or Gaussian, and A, which is no rotation."""
    generator = torch.Generator().manual_seed(3)
    s = torch.randn(N, SOURCES, dtype=D, generator=generator)
    if sparse:  # the root of an exponential variable times a Gaussian one is Laplacian
        s = s * torch.empty(N, SOURCES, dtype=D).exponential_(generator=generator).sqrt()
    A = torch.randn(SOURCES, SOURCES, dtype=D, generator=generator)
    return s @ A.T, A


@pytest.mark.parametrize(("f", "lr"), [("negative_tanh", 0.5), ("rectifier", 0.2), ("sparse", 0.1)])
@pytest.mark.slow
def test_fields_of_a_sparse_mixture_answer_one_source_each(script: dict[str, Any], f: str, lr: float) -> None:
    """Independent components: W V A, what a unit answers to each source, is a signed permutation."""
    x, A = mixture(sparse=True)
    x = x - x.mean(0)
    whitening = script["Whitening"].of(x, SOURCES)
    method = Hebbian(rule="nonlinear", f=f, rate=1.0)
    W = script["grow"](method, x @ whitening.V.T, SOURCES, lr, 1500, 1000, torch.Generator().manual_seed(0))
    answers = (W @ whitening.V @ A).abs()
    winners = answers.argmax(1)
    assert sorted(winners.tolist()) == list(range(SOURCES))
    torch.testing.assert_close(answers, F.one_hot(winners, SOURCES).to(D), rtol=0, atol=0.15)


def test_fields_of_gaussian_mixtures_stay_where_they_started(script: dict[str, Any]) -> None:
    """No direction is preferred: units are pushed apart, to the rotation next to their start, and by nothing else."""
    x, _ = mixture(sparse=False)
    x = x - x.mean(0)
    V = script["Whitening"].of(x, SOURCES).V
    method, generator = Hebbian(rule="nonlinear", f="negative_tanh", rate=1.0), torch.Generator().manual_seed(0)
    start = F.normalize(torch.randn(SOURCES, SOURCES, generator=generator, dtype=D))
    grown = script["grow"](method, x @ V.T, SOURCES, 0.5, 300, 1000, torch.Generator().manual_seed(0))
    U, _, Vh = torch.linalg.svd(start)
    assert float((grown * (U @ Vh)).sum(1).min()) > 0.95


def test_whitening_gives_variance_1_and_counts_what_it_floors(script: dict[str, Any]) -> None:
    x, _ = mixture(sparse=True)
    V = script["Whitening"].of(x, 4).V
    z = x @ V.T
    torch.testing.assert_close(z.T @ z / N, torch.eye(4, dtype=D))
    flat = torch.cat([x, torch.zeros(N, 2, dtype=D)], 1)
    found = script["Whitening"].of(flat, 8)
    assert found.floored == 2
    assert bool(torch.isfinite(found.V).all())


def test_measures_of_fields(script: dict[str, Any]) -> None:
    """A field within a window has all its energy there, a flat one 36 / 144; a grating is oriented, a ring is not."""
    place = torch.arange(12, dtype=D)
    spot, flat = torch.zeros(12, 12, dtype=D), torch.ones(12, 12, dtype=D)
    spot[2:5, 3:8] = 1.0
    grating = torch.cos(2 * math.pi * place / 4).expand(12, 12)
    ring = (-((place[:, None] - 5.5) ** 2 + (place[None] - 5.5) ** 2) / 4).exp()
    localised = script["localised"](torch.stack([spot, flat]).flatten(1))
    torch.testing.assert_close(localised, torch.tensor([1.0, 0.25], dtype=D))
    oriented = script["oriented"](torch.stack([grating, grating.T, ring]).flatten(1))
    torch.testing.assert_close(oriented, torch.tensor([1.0, 1.0, 0.0], dtype=D), atol=1e-12, rtol=0)
