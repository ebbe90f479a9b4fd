"""Everything ``backroads theory`` works out, as the results that its report reads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from backroads.contrib.theory.closed import Mode, fate, held, noise_floor
from backroads.contrib.theory.flow import course, field, follow, linearise, observed_fates, settle, spectrum
from backroads.contrib.theory.measured import Digits, measure
from backroads.contrib.theory.settings import TheoryConfig
from backroads.feedback.rules import Alignment
from backroads.metrics.angles import angle
from backroads.runs.results import (
    HeldStill,
    Matrix,
    MatrixPoint,
    MirrorCurve,
    Moving,
    NetworkDiagram,
    NoiseMirror,
    PhaseDiagram,
    TheoryResults,
    Trajectory,
)

STARTS = ((0.3, 0.1), (-0.4, 0.1), (1.4, 0.1), (0.1, 1.3), (-1.2, -0.2), (0.9, -0.8), (-0.5, 1.2), (-1.3, 0.7))
PLANE = 2.0  # trajectories of two numbers are drawn as far as that
MIRROR_RATE, MIRROR_ROWS, MIRROR_STEPS = 0.05, 4096, 200
Report = Callable[[str, int, int], None]


def rule_of(config: TheoryConfig, **changes: float) -> Alignment:
    """The rule of the settings, with some coefficients (by their names in the settings' axes) changed."""
    values = {name: getattr(config, name) for name in ("decay", "amp", "null", "sparse")}
    values |= {"self": config.estimate} | changes
    return Alignment(**{("self_" if name == "self" else name): value for name, value in values.items()})


def axis(end: float, points: int) -> list[float]:
    """Evenly from 0 to ``end``."""
    return [end * k / (points - 1) for k in range(points)]


def middles(end: float, points: int) -> list[float]:
    """Middles of as many equal parts of 0 to ``end``: none of them lies on the border."""
    return [end * (k + 0.5) / points for k in range(points)]


def theory(config: TheoryConfig, report: Report = lambda what, done, total: None) -> TheoryResults:
    """Fixed points, stability, phase diagram, trajectories, and what a small network does.

    Args:
        config: the settings. report: called with (what, done, total) as the work goes on.
    """
    rule = rule_of(config)
    strengths = list(spectrum(config.inputs, config.power, config.condition))
    draw = torch.Generator().manual_seed(config.seed)
    axes = torch.linalg.qr(_randn(draw, config.inputs, config.inputs)).Q
    C = axes @ torch.diag(torch.tensor(strengths, dtype=torch.float64)) @ axes.t()
    W = _randn(draw, config.outputs, config.inputs) / math.sqrt(config.inputs)
    B = _randn(draw, config.outputs, config.inputs) / math.sqrt(config.inputs)

    def at(x: float, y: float) -> Alignment:
        return rule_of(config, **{config.across: x, config.up: y})

    return TheoryResults(
        kind="theory",
        settings=config.model_dump(),
        rule=repr(rule),
        strengths=tuple(strengths),
        moving=_moving(rule, config.power, strengths),
        matrix=_matrix(rule, W, B, C, config.time),
        held=_held(rule, W, C),
        plane=_plane(rule, config.power),
        diagram=_diagram(config, at, strengths, W, B, C, report),
        mirror=normalised_mirror(W, C, config.seed),
        network=_network(config, at, report) if config.network else None,
    )


def _randn(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=draw)


def _moving(rule: Alignment, power: float, strengths: list[float]) -> Moving:
    """The scalar system in closed form, and the growth of every axis of the matrix system at the origin."""
    mode = Mode.of(rule, power)
    return Moving(
        pull=mode.pull,
        loss=mode.loss,
        bound=mode.bound,
        fate=mode.fate,
        points=tuple(mode.fixed_points()),
        growth=tuple(Mode.of(rule, strength).origin[0] for strength in strengths),
        matrix_fate=fate(rule, strengths),
    )


def _matrix(rule: Alignment, W: Tensor, B: Tensor, C: Tensor, time: float) -> Matrix:
    """The matrix system from one start: its course, and the linearisation where it ends up."""
    path = follow([rule], W[None], B[None], C, time)
    found = observed_fates(path)[0]
    f = field(rule, C, len(W))
    end = torch.cat([path.W[-1].flatten(), path.B[-1].flatten()])
    point = settle(f, end) if found == "settles" else None
    if point is None:
        return Matrix(found, course(path))
    w, b = point.chunk(2)
    values = tuple((float(v.real), float(v.imag)) for v in linearise(f, point))
    return Matrix(found, course(path), MatrixPoint(float(w.norm()), float(b.norm()), angle(b, w), values))


def _held(rule: Alignment, W: Tensor, C: Tensor) -> HeldStill:
    """B while W is held, in closed form, beside the numbers of a linearisation."""
    solution = held(rule, W, C)
    finite = bool(solution.B.isfinite().all())
    f = field(rule, C, len(W), W)
    numerical = sorted((float(v.real) for v in linearise(f, torch.zeros(W.numel(), dtype=torch.float64))), reverse=True)
    exact = sorted((-float(rate) for rate in solution.rates.flatten()), reverse=True)
    return HeldStill(
        finite=finite,
        angle=angle(solution.B, W) if finite else None,
        gain=float(solution.B.norm() / W.norm()) if finite else None,
        slowest=float(solution.rates.min()),
        fastest=float(solution.rates.max()),
        largest_step=solution.largest_step,
        eigenvalue_error=max(abs(a - b) for a, b in zip(numerical, exact, strict=True)),
    )


def _plane(rule: Alignment, power: float) -> tuple[Trajectory, ...]:
    """Trajectories of the scalar system."""
    starts = torch.tensor(STARTS, dtype=torch.float64)[:, :, None, None]
    C = torch.tensor([[power]], dtype=torch.float64)
    path = follow([rule], starts[:, 0], starts[:, 1], C, 12.0, limit=1.5 * PLANE)
    fates = observed_fates(path, 1.5 * PLANE)
    points = torch.stack([path.W, path.B], -1).squeeze((-2, -3))  # (K, N, 2)
    return tuple(Trajectory(name, tuple((w, b) for w, b in points[:, n].tolist())) for n, name in enumerate(fates))


def _diagram(
    config: TheoryConfig,
    at: Callable[[float, float], Alignment],
    strengths: list[float],
    W: Tensor,
    B: Tensor,
    C: Tensor,
    report: Report,
) -> PhaseDiagram:
    """The closed form on a fine grid, the matrix system followed on a coarse one, and whether the two agree."""
    xs, ys = axis(config.across_to, config.points), axis(config.up_to, config.points)
    closed = tuple(tuple(fate(at(x, y), strengths) for x in xs) for y in ys)
    some_x, some_y = middles(config.across_to, config.simulated), middles(config.up_to, config.simulated)
    rules = [at(x, y) for y in some_y for x in some_x]
    expected = [fate(rule, strengths) for rule in rules]
    found = observed_fates(follow(rules, W[None], B[None], C, config.time, keep=40))
    followed = tuple(tuple(found[row * len(some_x) : (row + 1) * len(some_x)]) for row in range(len(some_y)))
    agreed = sum(a == b for a, b in zip(found, expected, strict=True))
    sure = sum(name != "undecided" for name in expected)
    report("phase diagram", 1, 1)
    return PhaseDiagram(
        across=config.across,
        up=config.up,
        xs=tuple(xs),
        ys=tuple(ys),
        closed=closed,
        some_x=tuple(some_x),
        some_y=tuple(some_y),
        followed=followed,
        agreed=agreed,
        of=sure,
    )


def normalised_mirror(W: Tensor, C: Tensor, seed: int) -> NoiseMirror:
    """``B <- B + rate (M[y xi^T] / s^2 - B)`` beside the mirror on activity, W held: gain and angle against steps.

    Both have decay = amp = rate. The mirror on activity goes to W C; that on noise of known power goes to W.
    """
    draw = torch.Generator().manual_seed(seed + 1)
    outputs, inputs = W.shape
    root = torch.linalg.cholesky(C + 1e-12 * torch.eye(inputs, dtype=torch.float64))
    powers = (0.25, 1.0, 4.0)
    curves = []
    for name, power in [("noise of known power", 1.0), *((f"activity of power {p:g}", p) for p in powers)]:
        B = _randn(draw, outputs, inputs) / math.sqrt(inputs)
        gains, angles = [], []
        for _ in range(MIRROR_STEPS + 1):
            gains.append(float(B.norm() / W.norm()))
            angles.append(angle(B, W))
            x = _randn(draw, MIRROR_ROWS, inputs)
            if not name.startswith("noise"):
                x = math.sqrt(power / float(C.diagonal().mean())) * x @ root.t()
            B = B + MIRROR_RATE * ((x @ W.t()).t() @ x / MIRROR_ROWS - B)
        curves.append(MirrorCurve(name, tuple(gains), tuple(angles)))
    floor = noise_floor(MIRROR_RATE, MIRROR_ROWS, inputs)
    return NoiseMirror(MIRROR_RATE, MIRROR_ROWS, math.degrees(math.atan(floor)), tuple(curves))


def _network(config: TheoryConfig, at: Callable[[float, float], Alignment], report: Report) -> NetworkDiagram:
    """The diagram on the digits, and where the theory puts its borders.

    With ``reduction="power"``, and amp, null and sparse divided by the strongest axis of any layer's input: it has
    strength 1 then, as in the scalar system.
    """
    digits = Digits(config.seed)
    strengths = digits.strengths(dataclasses.replace(at(0.0, 0.0), reduction="power"))
    strongest = max(strengths.values())

    def rule(x: float, y: float) -> Alignment:
        return dataclasses.replace(at(x, y).scaled(1.0, 1 / strongest), reduction="power")

    xs, ys = (middles(end, config.network_points) for end in (config.across_to, config.up_to))
    outcomes = measure(
        digits,
        rule,
        xs,
        ys,
        steps=config.network_steps,
        rate=config.network_rate,
        report=lambda done, total: report("network", done, total),
    )
    fine_x, fine_y = axis(config.across_to, config.points), axis(config.up_to, config.points)
    return NetworkDiagram(
        xs=tuple(xs),
        ys=tuple(ys),
        outcomes=tuple(map(tuple, outcomes)),
        strengths=strengths,
        growth=tuple(tuple(Mode.of(at(x, y)).origin[0] for x in fine_x) for y in fine_y),
        fine_x=tuple(fine_x),
        fine_y=tuple(fine_y),
    )
