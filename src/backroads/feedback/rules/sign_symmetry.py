"""Sign symmetry: B shares the signs of W and has magnitudes of its own."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from backroads.feedback.checks import check_choice, checked_options
from backroads.feedback.rules.base import FeedbackRule, State, Use, draw_like

SIGN_VARIANTS = ("uniform", "batch_random", "fixed_random")
SIGN_SCALES = ("filter", "initial")


@dataclasses.dataclass(frozen=True)
class SignSymmetry(FeedbackRule):
    """B has the signs of W and magnitudes of its own; see :func:`sign_symmetry`."""

    kind: ClassVar[str] = "sign_symmetry"
    variant: str = "uniform"
    scale: str = "filter"

    def __post_init__(self) -> None:
        check_choice("sign_symmetry", "variant", self.variant, SIGN_VARIANTS)
        check_choice("sign_symmetry", "scale", self.scale, SIGN_SCALES)

    def state(self, W: Tensor, features: int, generator: torch.Generator | None) -> State:
        if self.variant == "fixed_random":
            return {"sign_magnitude": draw_like(W, generator).abs()}
        return {"sign_scale": _root_mean_square(W).to(W.dtype)} if self.scale == "initial" else {}

    def feedback(self, W: Tensor, state: State) -> Tensor | None:
        W = W.detach()
        B = W.sign()
        if self.variant == "fixed_random":
            B = B * state["sign_magnitude"]
        elif self.variant == "batch_random":
            B = B * torch.randn(B.shape, dtype=B.dtype, device=B.device).abs()
        if self.scale == "filter":
            return B.mul_(_gain(W, B, self.variant == "uniform"))
        return B if self.variant == "fixed_random" else B * state["sign_scale"]

    def begin(self, use: Use, state: State) -> tuple[bool, State]:
        return True, {}  # the way back is made in the forward pass

    @property
    def gradient_is_local(self) -> bool:
        return True

    def __repr__(self) -> str:
        magnitude = {"uniform": "", "batch_random": "|fresh draw| ", "fixed_random": "|fixed draw| "}[self.variant]
        scale = "g" if self.scale == "filter" else "s" if self.variant == "uniform" else ""
        return f"sign symmetry: B = {f'{scale} ' if scale else ''}{magnitude}sign(W)"


@checked_options
def sign_symmetry(variant: str = "uniform", scale: str = "filter") -> SignSymmetry:
    """Sign symmetry: B shares the signs of W and has magnitudes of its own.

    Args:
        variant: "uniform" (uSF): ``B = g sign(W)``; "batch_random" (brSF): ``B = g |R| sign(W)``, R drawn anew in each
            forward pass from N(0, 1); "fixed_random" (frSF): ``B = g |R| sign(W)``, R drawn once, from the distribution
            of W.
        scale: "filter": g is a number for each filter (row of W), such that <B, W> = <W, W>: along W, B has W's own
            gain, whatever becomes of W. "initial": g is fixed: the root mean square of the layer's initial W (its
            standard deviation, as initialisers have mean 0), and 1 for frSF. That is the definition in the literature;
            it reads nothing but signs, but as filters grow and shrink, their errors come back too weak or too strong.

    Raises:
        RuleError: for another variant or scale.

    Sources: Liao, Leibo, Poggio, AAAI 2016; Moskovitz, Litwin-Kumar, Abbott, arXiv 1812.06488 (2018), who bring B to
    the norm of W in each step.
    """
    return SignSymmetry(variant, scale)


def _root_mean_square(W: Tensor) -> Tensor:
    """Root mean square of W (its standard deviation, as initialisers have mean 0), or its initialiser's if W is 0."""
    if W.is_meta:
        return torch.empty((), device=W.device)
    s = W.detach().to(torch.promote_types(W.dtype, torch.float32)).square().mean().sqrt()
    return s if s > 0 else torch.full_like(s, (3 * W[0].numel()) ** -0.5)


def _gain(W: Tensor, B: Tensor, signs_alone: bool) -> Tensor:
    """The factor on each row of B that makes its part along W's row that row: |W|^2 / <B, W>; 0 for a row of zeros."""
    rows = W.flatten(1)
    # <sign W, W> is the sum of |W|; as norms, no row is written before it is summed.
    along = torch.linalg.vector_norm(rows, 1, dim=1) if signs_alone else torch.linalg.vecdot(B.flatten(1), rows)
    gain: Tensor = torch.linalg.vector_norm(rows, 2, dim=1).square() / along.where(along > 0, torch.ones_like(along))
    return gain.view(-1, *(1,) * (W.dim() - 1))
