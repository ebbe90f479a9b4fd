"""A weighted sum of the five primitives, as data: coefficients, reduction over positions, operations on activities."""

from __future__ import annotations

import dataclasses
from typing import Self

from backroads.errors import RuleError
from backroads.feedback.checks import check_choice, check_flag, check_number
from backroads.feedback.primitives.operations import Operations

PRIMITIVES = ("decay", "amp", "null", "sparse", "self_")
REDUCTIONS = ("sum", "overlap", "mean", "per_tap_mean", "unit_power", "projected_step")


@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """R = decay 1/2|B|^2 - amp M<Wx, Bx> + null 1/2 M|B^T y|^2 + sparse 1/2 M|Bx|^2 - self <W, B>.

    M is the mean over the batch. With y = W x, z = B x and r = B^T y the gradients of the primitives for B are, in this
    order, B, -M[y x^T], M[y r^T], M[z x^T] and -W. (The reference has no 1/2: its coefficient of decay, null or sparse
    is half of ours.)

    Args:
        decay, amp, null, sparse, self_: coefficients, finite and >= 0.
        update_forward: W also gets its gradient of R, to which decay then adds 1/2|W|^2 and sparse 1/2 M|Wx|^2.
        reduction: what becomes of the positions of a convolution (or the tokens of a sequence):

            - "sum" over positions, as the reference has it;
            - "overlap": the sum, divided by the largest number of positions at which one pixel is met (9 for a 3x3
              convolution at stride 1, 4 at stride 2), so that with x of norm 1 no layer's second moment of patches has
              an eigenvalue above 1;
            - "mean" over positions;
            - "per_tap_mean", for amp and sparse on noise: the mean over the positions at which each tap of the kernel
              meets the input and not its padding, so that a border does not weaken some taps;
            - "unit_power": the mean, and each term divided by the mean square of the activity that it is quadratic in
              (x for amp and sparse, y for null), which makes all coefficients dimensionless;
            - "projected_step", for sparse with or without amp: each row of their gradient is brought to the length at
              which a step of rate 1 / sparse ends nearest to the row's fixed point, (amp / sparse) W, for any input and
              whatever its scale.
        operations: what is done to the activities first.

    Raises:
        RuleError: if a value makes no sense; the message says what was expected.

    Source: Kunin et al., "Two Routes to Scalable Credit Assignment without Weight Symmetry", ICML 2020 (arXiv
    2003.01513). "overlap", "per_tap_mean", "unit_power" and "projected_step" are ours.
    """

    decay: float = 0.0
    amp: float = 0.0
    null: float = 0.0
    sparse: float = 0.0
    self_: float = 0.0
    _: dataclasses.KW_ONLY
    update_forward: bool = False
    reduction: str = "sum"
    operations: Operations = Operations()  # noqa: RUF009  frozen

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in PRIMITIVES:
            check_number(owner, name.rstrip("_"), getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))
        check_flag(owner, "update_forward", self.update_forward)
        check_choice(owner, "reduction", self.reduction, REDUCTIONS)
        if not isinstance(self.operations, Operations):
            raise RuleError(f"{owner}: operations must be Operations(...), got {self.operations!r}")
        if self.reduction in ("projected_step", "per_tap_mean") and (
            self.null or not self.closed_form or self.update_forward
        ):
            raise RuleError(
                f'{owner}: reduction "{self.reduction}" is for sparse and amp, without null, update_forward and '
                f"operations on outputs; got {self!r}; choose another reduction"
            )

    @property
    def coefficients(self) -> dict[str, float]:
        """The five coefficients by name, in the order decay, amp, null, sparse, self_."""
        return {name: getattr(self, name) for name in PRIMITIVES}

    @property
    def closed_form(self) -> bool:
        """Whether no operation but those on the input stands between the sum and its gradient in closed form."""
        return self.operations.only_on_input

    @property
    def reads_activities(self) -> bool:
        """Whether any term is made from activities: amp, null or sparse."""
        return bool(self.amp or self.null or self.sparse)

    @property
    def reads_weight(self) -> bool:
        """Whether the gradient needs W."""
        return self.update_forward or not self.closed_form or any((self.amp, self.null, self.self_))

    @property
    def reads_output(self) -> bool:
        """Whether the closed form needs y = W x: keeping the layer's own saves a projection."""
        if not self.closed_form or self.operations.center_input or self.operations.normalize_input:
            return False  # differentiated, or of another x
        in_one_projection = self.sparse != 0 and not self.update_forward  # amp is then part of that of sparse
        return self.null != 0 or (self.amp != 0 and not in_one_projection) or (self.sparse != 0 and self.update_forward)

    def scaled(self, everything: float, data: float = 1.0) -> Self:
        """The same with all coefficients times ``everything``, and amp, null and sparse times ``data`` as well."""
        factors = {name: everything if name in ("decay", "self_") else everything * data for name in PRIMITIVES}
        return dataclasses.replace(self, **{name: getattr(self, name) * f for name, f in factors.items()})

    def formula(self) -> str:
        """The sum in letters, as in "R = 0.5 decay + 0.5 self"."""
        terms = [f"{c:g} {name.rstrip('_')}" for name, c in self.coefficients.items() if c]
        return f"R = {' + '.join(terms) or '0'}"
