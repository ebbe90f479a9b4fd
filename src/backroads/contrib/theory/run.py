"""Everything ``backroads theory`` works out, as the results that its report reads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from backroads.contrib.theory.closed import Mode, fate, held, noise_floor
from backroads.contrib.theory.flow import course, field, follow, linearise, observed_fates, settle, spectrum
from backroads.contrib.theory.measured import Digits
from backroads.contrib.theory.settings import TheoryConfig
from backroads.feedback.rules import Alignment
from backroads.metrics.angles import angle
from backroads.runs import results

STARTS = ((0.3, 0.1), (-0.4, 0.1), (1.4, 0.1), (0.1, 1.3), (-1.2, -0.2), (0.9, -0.8), (-0.5, 1.2), (-1.3, 0.7))
PLANE = 2.0  # trajectories of two numbers are drawn as far as that
MIRROR_RATE, MIRROR_ROWS, MIRROR_STEPS = 0.05, 4096, 200
RuleAt = Callable[[float, float], Alignment]
Report = Callable[[str, int, int], None]


def rule_of(config: TheoryConfig, **changes: float) -> Alignment:
    """The rule of the settings, with some coefficients changed; both by their names in the settings."""
    values = {name: getattr(config, name) for name in ("decay", "amp", "null", "sparse", "self")} | changes
    return Alignment(self_=values.pop("self"), **values)


def axis(end: float, points: int) -> tuple[float, ...]:
    """Evenly spaced numbers from 0 to ``end``."""
    return tuple(end * k / (points - 1) for k in range(points))


def middles(end: float, points: int) -> tuple[float, ...]:
    """The middles of as many equal parts of 0 to ``end``."""
    return tuple(end * (k + 0.5) / points for k in range(points))


def theory(config: TheoryConfig, report: Report = lambda what, done, total: None) -> results.TheoryResults:
    """Fixed points, stability, phase diagram, trajectories, and what a small network does.

    Args:
        config: the settings.
        report: called with (what, done, total) as the work goes on.
    """
    rule = rule_of(config)
    strengths = spectrum(config.inputs, config.power, config.condition)
    generator = torch.Generator().manual_seed(config.seed)
    axes = torch.linalg.qr(_randn(generator, config.inputs, config.inputs)).Q
    C = axes @ torch.diag(torch.tensor(strengths, dtype=torch.float64)) @ axes.t()
    W, B = (_randn(generator, config.outputs, config.inputs) / math.sqrt(config.inputs) for _ in range(2))
    mode = Mode.of(rule, config.power)

    def rule_at(x: float, y: float) -> Alignment:
        return rule_of(config, **{config.across: x, config.up: y})

    return results.TheoryResults(
        kind="theory",
        settings=config.model_dump(),
        rule=repr(rule),
        strengths=tuple(strengths),
        moving=results.Moving(
            **dataclasses.asdict(mode),
            fate=mode.fate,
            points=tuple(mode.fixed_points()),
            growth=tuple(Mode.of(rule, strength).origin[0] for strength in strengths),
            matrix_fate=fate(rule, strengths),
        ),
        matrix=_matrix(rule, W, B, C, config.time),
        held=_held(rule, W, C),
        plane=_plane(rule, config.power),
        diagram=_diagram(config, rule_at, strengths, W, B, C, report),
        mirror=white_noise_mirror(W, C, config.seed),
        network=_network(config, rule_at, report) if config.network else None,
    )


def _randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _matrix(rule: Alignment, W: Tensor, B: Tensor, C: Tensor, time: float) -> results.Matrix:
    """A layer with both weights moving, from one start, linearised at the fixed point that it comes to."""
    path = follow([rule], W[None], B[None], C, time)
    found, f = observed_fates(path)[0], field(rule, C, len(W))
    end = torch.cat([path.W[-1].flatten(), path.B[-1].flatten()])
    point = settle(f, end) if found == "settles" else None
    if point is None:
        return results.Matrix(found, course(path))
    w, b = point.chunk(2)
    values = tuple((float(v.real), float(v.imag)) for v in linearise(f, point))
    fixed = results.MatrixPoint(float(w.norm()), float(b.norm()), angle(b, w), values)
    return results.Matrix(found, course(path), fixed)


def _held(rule: Alignment, W: Tensor, C: Tensor) -> results.HeldStill:
    """Where B goes while W does not move, in closed form, compared with a linearisation."""
    solution = held(rule, W, C)
    finite = bool(solution.B.isfinite().all())
    numerical = linearise(field(rule, C, len(W), W), torch.zeros(W.numel(), dtype=torch.float64)).real
    exact = -solution.rates.flatten()
    return results.HeldStill(
        finite=finite,
        angle=angle(solution.B, W) if finite else None,
        gain=float(solution.B.norm() / W.norm()) if finite else None,
        slowest=float(solution.rates.min()),
        fastest=float(solution.rates.max()),
        largest_step=solution.largest_step,
        eigenvalue_error=float((numerical.sort().values - exact.sort().values).abs().max()),
    )


def _plane(rule: Alignment, power: float) -> tuple[results.Trajectory, ...]:
    """Trajectories of a layer with one input and one output."""
    starts = torch.tensor(STARTS, dtype=torch.float64)[:, :, None, None]
    C = torch.tensor([[power]], dtype=torch.float64)
    path = follow([rule], starts[:, 0], starts[:, 1], C, 12.0, limit=1.5 * PLANE)
    fates = observed_fates(path, 1.5 * PLANE)
    points = torch.stack([path.W, path.B], -1).squeeze((-2, -3))  # (K, N, 2)
    return tuple(results.Trajectory(name, tuple(map(tuple, points[:, n].tolist()))) for n, name in enumerate(fates))


def _diagram(
    config: TheoryConfig, rule_at: RuleAt, strengths: list[float], W: Tensor, B: Tensor, C: Tensor, report: Report
) -> results.PhaseDiagram:
    """The closed form on a fine grid, a layer integrated on a coarse one, and whether the two agree."""
    xs, ys = axis(config.across_to, config.points), axis(config.up_to, config.points)
    some_x, some_y = middles(config.across_to, config.simulated), middles(config.up_to, config.simulated)
    rules = [rule_at(x, y) for y in some_y for x in some_x]
    expected = [fate(rule, strengths) for rule in rules]
    found = observed_fates(follow(rules, W[None], B[None], C, config.time, keep=40))
    report("phase diagram", 1, 1)
    return results.PhaseDiagram(
        across=config.across,
        up=config.up,
        xs=xs,
        ys=ys,
        closed=tuple(tuple(fate(rule_at(x, y), strengths) for x in xs) for y in ys),
        some_x=some_x,
        some_y=some_y,
        followed=tuple(tuple(found[start : start + len(some_x)]) for start in range(0, len(found), len(some_x))),
        agreed=sum(a == b for a, b in zip(found, expected, strict=True)),
        of=sum(name != "undecided" for name in expected),
    )


def white_noise_mirror(W: Tensor, C: Tensor, seed: int) -> results.NoiseMirror:
    """``B <- B + rate (M[y xi^T] / s^2 - B)`` beside the mirror on activity, W held: gain and angle against steps.

    Both have decay = amp = rate. The mirror on activity goes to W C; that on noise of known power goes to W.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    outputs, inputs = W.shape
    root = torch.linalg.cholesky(C + 1e-12 * torch.eye(inputs, dtype=torch.float64))
    curves = []
    for name, power in (("noise of known power", None), *((f"activity of power {p:g}", p) for p in (0.25, 1.0, 4.0))):
        B = _randn(generator, outputs, inputs) / math.sqrt(inputs)
        gains, angles = [], []
        for _ in range(MIRROR_STEPS + 1):
            gains.append(float(B.norm() / W.norm()))
            angles.append(angle(B, W))
            x = _randn(generator, MIRROR_ROWS, inputs)
            if power is not None:
                x = math.sqrt(power / float(C.diagonal().mean())) * x @ root.t()
            B = B + MIRROR_RATE * ((x @ W.t()).t() @ x / MIRROR_ROWS - B)
        curves.append(results.MirrorCurve(name, tuple(gains), tuple(angles)))
    floor = math.degrees(math.atan(noise_floor(MIRROR_RATE, MIRROR_ROWS, inputs)))
    return results.NoiseMirror(MIRROR_RATE, MIRROR_ROWS, floor, tuple(curves))


def _network(config: TheoryConfig, rule_at: RuleAt, report: Report) -> results.NetworkDiagram:
    """The diagram on a network, and where the theory puts its borders.

    With ``reduction="unit_power"``, and amp, null and sparse divided by the largest eigenvalue of any layer's C: the
    layer that has it then has the borders of a layer with one input of power 1.
    """
    digits = Digits(config.seed)
    strengths = digits.strengths(dataclasses.replace(rule_at(0.0, 0.0), reduction="unit_power"))
    strongest = max(strengths.values())
    xs, ys = (middles(end, config.network_points) for end in (config.across_to, config.up_to))
    outcomes: list[tuple[results.Outcome, ...]] = []
    for y in ys:
        row = []
        for x in xs:
            rule = dataclasses.replace(rule_at(x, y).scaled(1.0, 1 / strongest), reduction="unit_power")
            row.append(digits.train(rule, config.network_steps, config.network_rate))
            report("network", len(xs) * len(outcomes) + len(row), len(xs) * len(ys))
        outcomes.append(tuple(row))
    fine_x, fine_y = axis(config.across_to, config.points), axis(config.up_to, config.points)
    return results.NetworkDiagram(
        xs=xs,
        ys=ys,
        outcomes=tuple(outcomes),
        strengths=strengths,
        growth=tuple(tuple(Mode.of(rule_at(x, y)).origin[0] for x in fine_x) for y in fine_y),
        fine_x=fine_x,
        fine_y=fine_y,
    )
