"""Results that are no single training's: of a search, of the theory, and what is measured after meta-training.

Like :mod:`backroads.runs.schema`: the writer constructs these types, the report reads the same ones. No torch in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from backroads.runs.schema import VERSION, Count, Finite, Fraction, Lifetimes, Number

# -- backroads search --------------------------------------------------------------------------------------------------

TrialEnd = Literal["complete", "pruned", "diverged", "error", "lost"]
"""How a trial ended. "lost": its worker died more often than the settings allow."""


@dataclass(frozen=True)
class SearchGroup:
    """One rule, or one subset of the primitives. Accuracies are fractions, on the validation part.

    Attributes:
        group: its name. planned: trials in all. ended: number of trials by how they ended. subset: names of its
            primitives, None for a rule. best: accuracy. quartiles: of the complete trials; lower, median, upper.
        best_number, best_params: number and sampled values of the best trial.
    """

    group: str
    planned: Count
    ended: dict[str, Count]
    subset: tuple[str, ...] | None = None
    best: Fraction = None
    quartiles: tuple[Finite, Finite, Finite] | None = None
    best_number: Count | None = None
    best_params: dict[str, Any] | None = None

    @property
    def failed(self) -> int:
        """Trials that diverged, met an error, or lost their worker too often."""
        return sum(self.ended.get(end, 0) for end in ("diverged", "error", "lost"))


@dataclass(frozen=True)
class SearchTrial:
    """A trial that has ended. value: validation accuracy. params: the values that were sampled for it."""

    number: Count
    group: str
    end: TrialEnd
    value: Fraction = None
    seconds: Number = None
    params: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class SearchResults:
    """``results.json`` of ``backroads search``, finished or not.

    Attributes:
        planned, settled, running: trials in all, ended, and under way. trials: in the order in which they ended.
        importances: by group, the share of each sampled value in what makes a trial one of the better half.
        lost_attempts: attempts whose worker died.
    """

    kind: Literal["search"]
    settings: dict[str, Any]
    planned: Count
    settled: Count
    running: Count
    groups: tuple[SearchGroup, ...]
    trials: tuple[SearchTrial, ...]
    importances: dict[str, dict[str, Finite]]
    lost_attempts: Count = 0
    seconds: Number = None
    version: Count = VERSION


@dataclass(frozen=True)
class PromotedTrial:
    """A trial that was trained again on the whole training split. accuracies: of each seed on the test split, None if
    it diverged. mean, interval: over the others; half the width of the 95 % interval of Student's t."""

    number: Count
    group: str
    validation: Fraction
    accuracies: tuple[Fraction, ...]
    mean: Fraction
    interval: Number


@dataclass(frozen=True)
class Promotion:
    """``promote.json``. trainings: what has been trained so far, by name, with its settings."""

    rows: tuple[PromotedTrial, ...] = ()
    seeds: tuple[Count, ...] = ()
    trainings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TransferCell:
    """A rule on one network. lost: its gap to backprop there less that on the searched network, as a fraction."""

    accuracies: tuple[Fraction, ...]
    mean: Fraction
    interval: Number
    lost: Number


@dataclass(frozen=True)
class TransferRow:
    """A rule on every network, by the network's name."""

    group: str
    models: dict[str, TransferCell]


@dataclass(frozen=True)
class Transfer:
    """``transfer.json``. models: the searched one first."""

    models: tuple[str, ...] = ()
    rows: tuple[TransferRow, ...] = ()
    seeds: tuple[Count, ...] = ()
    trainings: dict[str, Any] = field(default_factory=dict)


# -- backroads theory --------------------------------------------------------------------------------------------------

Fate = Literal["collapses", "settles", "explodes", "undecided"]
"""What becomes of W and B when both move. "undecided": on a border, where the first order does not say."""


@dataclass(frozen=True)
class FixedPoint:
    """A point (w, b) at which both weights rest, and the eigenvalues of the linearised flow there."""

    w: Finite
    b: Finite
    eigenvalues: tuple[Finite, ...]
    stability: Literal["stable", "unstable", "marginal"]


@dataclass(frozen=True)
class Moving:
    """Both weights moving: ``w' = pull b - loss w - bound b^2 w`` and the same with w and b exchanged.

    Attributes:
        fate, points: of this system. growth: of each axis of the matrix system at the origin. matrix_fate: its fate.
    """

    pull: Finite
    loss: Finite
    bound: Finite
    fate: Fate
    points: tuple[FixedPoint, ...]
    growth: tuple[Finite, ...]
    matrix_fate: Fate


@dataclass(frozen=True)
class Course:
    """A trajectory of two matrices: |W|, |B| and the angle between them, in degrees, over time."""

    times: tuple[Finite, ...]
    W: tuple[Finite, ...]
    B: tuple[Finite, ...]
    angle: tuple[Finite, ...]


@dataclass(frozen=True)
class MatrixPoint:
    """Where the matrix system settles: |W|, |B|, degrees between them, eigenvalues (real, imaginary) there."""

    W: Finite
    B: Finite
    angle: Finite
    eigenvalues: tuple[tuple[Finite, Finite], ...]


@dataclass(frozen=True)
class Matrix:
    """The matrix system from one start. fixed_point: None if it does not settle."""

    fate: Fate
    course: Course
    fixed_point: MatrixPoint | None = None


@dataclass(frozen=True)
class HeldStill:
    """B while W does not move.

    Attributes:
        finite: whether B has a limit. angle: of the limit to W, degrees. gain: its length over that of W. slowest,
            fastest: rates at which B gets there, 1 / time. largest_step: rates of gradient steps beyond it diverge.
        eigenvalue_error: largest difference between the closed form and a linearisation.
    """

    finite: bool
    angle: Number
    gain: Number
    slowest: Finite
    fastest: Finite
    largest_step: Number
    eigenvalue_error: Finite


@dataclass(frozen=True)
class Trajectory:
    """(w, b) over time, from one start."""

    fate: Fate
    points: tuple[tuple[Finite, Finite], ...]


@dataclass(frozen=True)
class PhaseDiagram:
    """Fates by row (coefficient ``up``) and column (coefficient ``across``).

    Attributes:
        xs, ys, closed: in closed form, on a fine grid. some_x, some_y, followed: of the matrix system, followed in
            time, on a coarse one. agreed, of: of how many points of the coarse grid the two say the same.
    """

    across: str
    up: str
    xs: tuple[Finite, ...]
    ys: tuple[Finite, ...]
    closed: tuple[tuple[Fate, ...], ...]
    some_x: tuple[Finite, ...]
    some_y: tuple[Finite, ...]
    followed: tuple[tuple[Fate, ...], ...]
    agreed: Count
    of: Count


@dataclass(frozen=True)
class MirrorCurve:
    """|B| / |W| and the angle between B and W in degrees, by step."""

    name: str
    gain: tuple[Finite, ...]
    angle: tuple[Finite, ...]


@dataclass(frozen=True)
class NoiseMirror:
    """A weight mirror on noise of known power, beside mirrors on activity. floor_angle: degrees that the noise of the
    estimate leaves. rate, rows: step size, and samples of each step."""

    rate: Finite
    rows: Count
    floor_angle: Finite
    curves: tuple[MirrorCurve, ...]


@dataclass(frozen=True)
class Outcome:
    """A short training of a network at one point of the diagram.

    Attributes:
        fate: "explodes" if any layer does, "collapses" if all do. growth: of the length of W and B over the training,
            of the layer that grew most. angle: between W and B at the end, mean over layers; None where the training
            broke off. accuracy: on the last batch.
    """

    fate: Fate
    growth: Number
    angle: Number
    accuracy: Fraction


@dataclass(frozen=True)
class NetworkDiagram:
    """Outcomes by row (ys) and column (xs). growth: that the theory expects of the strongest axis of any layer's input,
    on the fine grid (fine_y, fine_x). strengths: of the strongest axis, by layer."""

    xs: tuple[Finite, ...]
    ys: tuple[Finite, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]
    strengths: dict[str, Finite]
    growth: tuple[tuple[Finite, ...], ...]
    fine_x: tuple[Finite, ...]
    fine_y: tuple[Finite, ...]


@dataclass(frozen=True)
class TheoryResults:
    """``results.json`` of ``backroads theory``. rule: its formula. strengths: of the axes of the input."""

    kind: Literal["theory"]
    settings: dict[str, Any]
    rule: str
    strengths: tuple[Finite, ...]
    moving: Moving
    matrix: Matrix
    held: HeldStill
    plane: tuple[Trajectory, ...]
    diagram: PhaseDiagram
    mirror: NoiseMirror
    network: NetworkDiagram | None = None
    version: Count = VERSION


# -- backroads meta eval and analyse -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetaEvaluation:
    """``evaluation.json`` of ``backroads meta eval``.

    Attributes:
        step: of the saved weights. ways: lifetimes by number of tasks. passed_over: what is wrong with newer
            checkpoints, which were not used.
    """

    split: str
    step: Count
    ways: dict[str, Lifetimes]
    inner_lr: Number = None
    environment: dict[str, Any] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetaAnalysis:
    """``analysis.json`` of ``backroads meta analyse``.

    Attributes:
        probes: steps of a lifetime that were looked at. update_angle: degrees between an update and minus a gradient;
            by gradient ("step", "query", "random_feedback"), layer, probe. feedback_angle: degrees between feedback
            and the transposed forward weights; by moment, layer. interference: see the analysis.
    """

    split: str
    step: Count
    lifetimes: Count
    probes: tuple[Count, ...]
    update_angle: dict[str, dict[str, list[Number]]]
    feedback_angle: dict[str, dict[str, Number]]
    interference: dict[str, Number]
    environment: dict[str, Any] = field(default_factory=dict)
