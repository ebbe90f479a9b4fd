"""The page of a search: groups by rank, what each sampled value did, what mattered, and what came of the best."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from backroads.report import figure, text
from backroads.report.curve import NAN, Curve
from backroads.report.figure import Scale
from backroads.report.page import Block, Cell, Figure, Headline, Page, Pairs, Panel, Row, Section, Table, Text
from backroads.report.parts import overview
from backroads.report.read import Record
from backroads.report.svg import HEAT, SERIES, TEXT, Size, draw
from backroads.runs.results import Promotion, SearchGroup, SearchResults, SearchTrial, Transfer

PRIMITIVES = ("decay", "amp", "null", "sparse", "self")
CURVES = 4  # groups in the figure of best-so-far curves
LEAST = 4  # trials with a value, for a figure of it
MOST = 300  # marks in a drawing: a page of thousands of trials stays small
REASONS = 6  # in the list of failures

Scores = Mapping[frozenset[str], float | None]  # accuracy by subset


def search_page(record: Record) -> Page:
    """The whole page."""
    results: SearchResults = record.results
    promotion: Promotion = record.beside.get("promote.json") or Promotion()
    ranked = sorted(results.groups, key=lambda group: -1.0 if group.best is None else group.best, reverse=True)
    complete = [trial for trial in results.trials if trial.end == "complete" and trial.value is not None]
    low = _low(complete)
    subsets = all(group.subset is not None for group in ranked)
    what = "Subsets of the primitives" if subsets else "Rules"
    best = ranked[0].best_params or {}
    unfinished = "Unfinished" if results.running or results.settled < results.planned else ""
    return Page(
        record,
        title=f"{what} searched on {text.title(str(results.settings.get('data', 'data')))}",
        facts=_facts(results, subsets),
        headline=Headline(unfinished, False, _summary(results, ranked, promotion)),
        sections=[
            Section("ranking", f"{what} by rank", [_ranking(ranked, complete, promotion, low)]),
            Section("together", "What helps together", _together(results, promotion) if subsets else []),
            Section("promoted", "Trained again", _promoted(promotion)),
            Section("transfer", "Transfer", _transfer(record.beside.get("transfer.json") or Transfer())),
            Section("best", "Best so far", [_best_so_far(results, ranked)]),
            Section("slices", "Slices", _slices(complete, low)),
            Section("importance", "Importance", _importances(results)),
            Section("pairs", "Pairs of values", _pairs(complete, results)),
            Section("failures", "Failures", _failures(results.trials)),
            Section(
                "trial", "The best trial", [Pairs([(_plain(k), text.setting(v)) for k, v in (best or {}).items()])]
            ),
        ],
    )


def _plain(name: str) -> str:
    return name.rstrip("_")


def _facts(results: SearchResults, subsets: bool) -> list[str | None]:
    return [
        str(results.settings.get("model", "")),
        f"{text.counted(results.settled, 'trial')} of {results.planned}",
        text.counted(len(results.groups), "subset" if subsets else "rule"),
        text.counted(int(results.settings.get("epochs", 0)), "epoch"),
        None if results.seconds is None else text.duration(results.seconds),
    ]


def _low(complete: Sequence[SearchTrial]) -> float:
    """Where the axes of accuracy begin: most trials are above."""
    values = sorted(trial.value or 0.0 for trial in complete)
    return max(0.0, min(0.95, int(20 * values[len(values) // 10]) / 20 - 0.05)) if values else 0.0


def _summary(results: SearchResults, ranked: Sequence[SearchGroup], promotion: Promotion) -> str:
    complete = sum(group.ended.get("complete", 0) for group in ranked)
    sentences = ["No trial is complete yet."]
    if complete:
        first = ranked[0]
        last = next(group for group in reversed(ranked) if group.best is not None)
        sentences = [
            f"The best of {text.counted(complete, 'complete trial')} is trial {first.best_slot} of {first.group}, with "
            f"a validation accuracy of {text.percent(first.best)} %."
        ]
        if last is not first:
            sentences.append(f"The best trial of {last.group}, the last in rank, has {text.percent(last.best)} %.")
    pruned, failed = sum(group.ended.get("pruned", 0) for group in ranked), sum(group.failed for group in ranked)
    if pruned or failed:
        sentences.append(f"{pruned} were ended early, {failed} failed.")
    if promotion.rows:
        top = promotion.rows[0]
        sentences.append(
            f"Trained again on the whole training split with {text.counted(len(top.accuracies), 'fresh seed')}, trial "
            f"{top.slot} of {top.group} leads with a test accuracy of {text.percent(top.mean)}{_half(top.interval)} %."
        )
    if results.settled < results.planned:
        sentences.append(f"{results.planned - results.settled} trials are left.")
    return " ".join([*sentences, "The best of many trials is partly luck: compare test accuracies."])


def _half(interval: float | None) -> str:
    return "" if interval is None else f" ± {text.percent(interval)}"


def _ranking(ranked: Sequence[SearchGroup], complete: Sequence[SearchTrial], promotion: Promotion, low: float) -> Table:
    tested = {row.group: Cell(text.percent(row.mean), _half(row.interval).strip()) for row in promotion.rows}
    rows = []
    for place, group in enumerate(ranked):
        values = sorted(trial.value or 0.0 for trial in complete if trial.group == group.group)
        median = None if group.quartiles is None else group.quartiles[1]
        counts = [group.ended.get("complete", 0), group.ended.get("pruned", 0), group.failed]
        strip = Cell(_strip(f"strip-{place}", group, values, low)) if values else ""
        test = [tested.get(group.group, text.DASH)] if tested else []
        rows.append(Row(group.group, [text.percent(group.best), text.percent(median), *test, *map(str, counts), strip]))
    legend = [
        (
            "Best, median",
            "Validation accuracy of complete trials, on a held-out part of the training split.",
        ),
        (
            "All trials",
            f"A tick for each complete trial, from {text.percent(low)} % or less at the left to 100 % at the right; "
            "the bar spans the middle half. A wide bar: the rule is sensitive to its settings.",
        ),
    ]
    if tested:
        meaning = "Of the trial that was trained again with fresh seeds: mean ± half a 95 % interval (Student’s t)."
        legend.insert(1, ("Test", meaning))
    heads = ["Rule or subset", "Best, %", "Median, %", *(["Test, %"] if tested else [])]
    return Table([*heads, "Complete", "Pruned", "Failed", "All trials"], rows, legend=legend)


def _strip(name: str, group: SearchGroup, values: Sequence[float], low: float) -> Markup:
    """A tick for each trial, on an axis of accuracy from ``low`` to 1, with the quartiles as a bar."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(low - 0.01, 1.005), ylim=(-1, 1))
        if group.quartiles is not None:
            left, _, right = (max(low, quartile) for quartile in group.quartiles)
            box = Rectangle((left, -0.9), max(0.002, right - left), 1.8, alpha=0.3, facecolor=SERIES[0], linewidth=0)
            axes.add_patch(box)
        axes.vlines([max(low, value) for value in _every(values, 80)], -0.8, 0.8, colors=TEXT, linewidth=0.7)

    told = f"{group.group}: {text.counted(len(values), 'complete trial')} from {text.percent(values[0])} % to "
    return draw(name, f"{told}{text.percent(values[-1])} %", Size(220, 18, left=2, right=2, top=2, bottom=2), paint)


def _every(values: Sequence[Any], most: int = MOST) -> Sequence[Any]:
    """At most ``most`` of the values, evenly, with the first and the last."""
    if len(values) <= most:
        return values
    return [values[round(k * (len(values) - 1) / (most - 1))] for k in range(most)]


def _scores(results: SearchResults, promotion: Promotion) -> tuple[Scores, bool]:
    """The accuracy of each subset, and whether that is a test accuracy: the best of the search if not all were tested.

    The best of many trials is partly luck, and more so the more its trials scatter; fresh seeds have none of that. The
    median of theirs, as one training that went wrong would outweigh all else; none, if most diverged.
    """
    tested = {row.group: _median(row.accuracies) for row in promotion.rows}
    whole = all(group.group in tested for group in results.groups)
    return {frozenset(g.subset or ()): tested[g.group] if whole else g.best for g in results.groups}, whole


def _median(accuracies: Sequence[float | None]) -> float | None:
    middle = statistics.median(-1.0 if accuracy is None else accuracy for accuracy in accuracies)
    return middle if middle >= 0 else None


def effects(scores: Scores) -> dict[tuple[int, int], float]:
    """By (row, column) of the primitives: the accuracy with both rather than neither, others equal, on average.

    On the diagonal: with the one primitive rather than without it. Pairs of subsets are left out where one has no
    accuracy.
    """
    found = {}
    for row, column in itertools.combinations_with_replacement(range(len(PRIMITIVES)), 2):
        pair = {PRIMITIVES[row], PRIMITIVES[column]}
        others = [name for name in PRIMITIVES if name not in pair]
        differences = []
        for size in range(len(others) + 1):
            for context in itertools.combinations(others, size):
                both, neither = scores.get(frozenset({*context, *pair})), scores.get(frozenset(context))
                if both is not None and neither is not None:
                    differences.append(both - neither)
        if differences:
            found[column, row] = statistics.fmean(differences)
    return found


def _together(results: SearchResults, promotion: Promotion) -> list[Block]:
    scores, tested = _scores(results, promotion)
    found = effects(scores)
    if not found:
        return []
    most = max(abs(effect) for effect in found.values()) or 1.0
    n = len(PRIMITIVES)

    def paint(axes: Axes) -> None:
        axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks(range(n), PRIMITIVES)
        axes.set_yticks(range(n), PRIMITIVES)
        axes.tick_params(length=0)
        for (row, column), effect in found.items():
            level = min(6, int(6.99 * abs(effect) / most))
            colour, alpha = (HEAT[level], 1.0) if effect >= 0 else (HEAT[7], 0.25 + 0.1 * level)
            box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.6, linewidth=0, facecolor=colour, alpha=alpha)
            axes.add_patch(box)
            axes.text(column, row + 0.33, text.points(effect), ha="center", va="center", color=TEXT, fontsize=9)

    pairs = (dict.fromkeys((PRIMITIVES[column], PRIMITIVES[row])) for row, column in found)
    told = "; ".join(f"{' with '.join(pair)} {text.points(e)}" for pair, e in zip(pairs, found.values(), strict=True))
    size = Size(330, 300, left=60, right=8, top=8, bottom=40)
    drawing = draw("together", f"Effect on the accuracy in points: {told}.", size, paint)
    what = "median test accuracy of fresh seeds" if tested else "best validation accuracy"
    caption = (
        f"Change of the {what}, in percentage points: on the diagonal with the one primitive rather than without it; "
        "elsewhere with both rather than with neither; averaged over all subsets of the others. Blue helps, orange "
    )
    caption += "harms. " + (
        "Read it beside the intervals of the test accuracies." if tested else "A point may be luck."
    )
    return [Figure(caption, overview=drawing)]


def _promoted(promotion: Promotion) -> list[Block]:
    rows = []
    for row in promotion.rows:
        gone = sum(accuracy is None for accuracy in row.accuracies)
        seeds = f"{len(row.accuracies)}" + (f", {gone} diverged" if gone else "")
        test = Cell(text.percent(row.mean), _half(row.interval).strip())
        rows.append(Row(f"{row.slot} {row.group}", [text.percent(row.validation), test, seeds]))
    caption = (
        "On the whole training split, with seeds that no trial had; each training is tested once, at its end. Mean ± "
        "half a 95 % interval (Student’s t) over the seeds that did not diverge."
    )
    return [Table(["Trial", "Validation, %", "Test, %", "Seeds"], rows, caption)] if rows else []


def _transfer(transfer: Transfer) -> list[Block]:
    models = transfer.models
    rows = []
    for row in transfer.rows:
        cells = []
        for model in models:
            cell = row.models[model]
            lost = model != models[0] and row.group != "backprop" and cell.lost is not None
            cells.append(Cell(text.percent(cell.mean), text.points(cell.lost) if lost else ""))
        rows.append(Row(row.group, cells))
    if not rows:
        return []
    caption = (
        f"Test accuracy in %, mean over seeds, of the settings found on {models[0]}, unchanged. Beside it the points "
        f"lost in transfer: the gap to backprop there less the gap on {models[0]}; negative numbers are gains."
    )
    return [Table(["Rule", *models], rows, caption)]


def _best_so_far(results: SearchResults, ranked: Sequence[SearchGroup]) -> Block:
    groups = [group.group for group in ranked if group.best is not None][:CURVES]
    if not groups:
        return Text("No trial is complete yet.")
    own = {
        group: [t.value if t.end == "complete" else None for t in results.trials if t.group == group]
        for group in groups
    }
    shown = {group: (_steps(values), figure.look(n)) for n, (group, values) in enumerate(own.items())}
    scale = figure.scale_of([y for curve, _ in shown.values() for _, y in curve.known])
    scale = Scale(scale.low, min(1.0, scale.high or 1.0), factor=100)
    caption = f"Best validation accuracy so far against the trials of each that have ended, for the best {len(shown)}."
    return overview("best", "Best", shown, scale, caption, x="trial", y="best so far, %", format=text.percent)


def _steps(values: Sequence[float | None]) -> Curve:
    """The best of ``values`` until then; None (a trial without a value) leaves it."""
    found = list(itertools.accumulate((-math.inf if v is None else v for v in values), max))
    keep = [k for k in range(len(found)) if k % math.ceil(len(found) / MOST) == 0 or found[k] != found[k - 1]]
    return Curve(tuple(k + 1 for k in keep), tuple(NAN if found[k] == -math.inf else found[k] for k in keep))


def _values(complete: Sequence[SearchTrial]) -> dict[str, list[tuple[Any, float]]]:
    """(sampled value, accuracy) of the complete trials that have it, by name."""
    found: dict[str, list[tuple[Any, float]]] = {}
    for trial in complete:
        for name, value in trial.params.items():
            found.setdefault(name, []).append((value, trial.value or 0.0))
    return {name: points for name, points in found.items() if len(points) >= LEAST}


def _is_number(values: Sequence[Any]) -> bool:
    return all(isinstance(value, float | int) and not isinstance(value, bool) for value in values)


def _slices(complete: Sequence[SearchTrial], low: float) -> list[Block]:
    panels = []
    scale = Scale(low - 0.01, 1.0, factor=100)
    for name, points in _values(complete).items():
        label = f"Accuracy of {len(points)} trials against {name}."
        if _is_number([x for x, _ in points]):
            shown = _every(sorted(points))
            xs, ys = [float(x) for x, _ in shown], [max(low, y) for _, y in shown]
            drawing = figure.points(f"slice-{name}", label, xs, ys, scale, log_x=min(xs) > 0)
        else:
            named: dict[str, list[float]] = {}
            for x, y in points:
                named.setdefault(text.setting(x), []).append(max(low, y))
            choices = [(choice, _every(sorted(named[choice]), 60)) for choice in sorted(named)]
            drawing = figure.categories(f"slice-{name}", label, choices, scale)
        panels.append(Panel(_plain(name), drawing))
    caption = (
        "Validation accuracy of complete trials, in %, against each number (upwards) or by choice (to the right). "
        f"Those below {text.percent(low)} % are drawn on the edge."
    )
    return [Figure(caption, panels)] if panels else []


def _shares(results: SearchResults) -> list[tuple[str, float, str]]:
    """Name, mean share over the groups and the group in which it is largest; the largest share first."""
    found = results.importances
    rows = []
    for name in dict.fromkeys(name for shares in found.values() for name in shares):
        own = {group: shares[name] for group, shares in found.items() if name in shares}
        rows.append((name, statistics.fmean(own.values()), max(own, key=lambda group: own[group])))
    return sorted(rows, key=lambda row: -row[1])


def _importances(results: SearchResults) -> list[Block]:
    rows = []
    for n, (name, share, most) in enumerate(_shares(results)):
        bar = figure.bar(f"share-{n}", f"{_plain(name)}: {text.percent(share)} %.", share)
        top = f"{most} ({text.percent(results.importances[most][name])})"
        rows.append(Row(_plain(name), [Cell(bar), text.percent(share), top]))
    caption = (
        "Share in what sets the better half of the trials apart (PED-ANOVA), mean over the rules or subsets with "
        "enough complete trials."
    )
    return [Table(["What varied", "Share", "in %", "Largest in"], rows, caption)] if rows else []


def _pairs(complete: Sequence[SearchTrial], results: SearchResults) -> list[Block]:
    """The numbers that matter most, two by two, with the accuracy as a shade."""
    numbers = [name for name, points in _values(complete).items() if _is_number([x for x, _ in points])]
    order = [name for name, _, _ in _shares(results)]
    numbers.sort(key=lambda name: order.index(name) if name in order else len(order))
    values = sorted(trial.value or 0.0 for trial in complete)
    panels = []
    for one, other in itertools.combinations(numbers[:4], 2):
        both = [trial for trial in complete if one in trial.params and other in trial.params]
        if len(both) < LEAST:
            continue
        shown = sorted(_every(both), key=lambda trial: trial.value or 0.0)
        xs, ys = ([float(trial.params[name]) for trial in shown] for name in (one, other))
        shades = [sum(v < (t.value or 0.0) for v in values) / len(values) for t in shown]
        scale = figure.scale_of(ys, log=True)
        label = f"Accuracy of {len(both)} trials by {one} and {other}."
        drawing = figure.points(f"pair-{one}-{other}", label, xs, ys, scale, shades, log_x=min(xs) > 0)
        panels.append(Panel(f"{_plain(other)} (upwards) and {_plain(one)}", drawing))
    if not panels:
        return []
    edges = [values[min(len(values) - 1, round(k * len(values) / 7))] for k in range(8)]
    names = [f"{text.percent(a)}–{text.percent(b)}" for a, b in itertools.pairwise(edges)]
    key = [Panel(name, figure.shade(f"pair-shade-{n}", n)) for n, name in enumerate(names)]
    caption = "Complete trials by two sampled numbers. The shade is the validation accuracy in %, as in the key."
    return [Figure(caption, panels, key=key)]


def _failures(trials: Sequence[SearchTrial]) -> list[Block]:
    # Without the numbers of steps in them, so that the same reasons are counted together.
    counted = Counter(
        (t.end, " ".join("…" if word.isdigit() else word for word in t.reason.split()))
        for t in trials
        if t.end in ("diverged", "error", "lost")
    )
    common = counted.most_common(REASONS)
    rest = sum(counted.values()) - sum(n for _, n in common)
    rows = [Row(f"{end}: {reason}" if reason else end, [str(n)]) for (end, reason), n in common]
    rows += [Row("for other reasons", [str(rest)])] if rest else []
    return [Table(["How trials failed", "Trials"], rows)] if rows else []
