"""The page of a search: groups by rank, what each sampled value did, what mattered, and what came of the best."""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from backroads.report import figure, text
from backroads.report.curve import through
from backroads.report.figure import SHADES, Look, Scale
from backroads.report.page import Block, Cell, Figure, Headline, Page, Pairs, Panel, Rows, Section, Table, Text
from backroads.report.parts import key, overview
from backroads.report.read import Record
from backroads.runs.results import PromotedTrial, Promotion, SearchGroup, SearchResults, SearchTrial, Transfer

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
    values = sorted(trial.value or 0.0 for trial in complete)
    # Where the axes of accuracy begin: most trials are above.
    low = max(0.0, min(0.95, int(20 * values[len(values) // 10]) / 20 - 0.05)) if values else 0.0
    subsets = all(group.subset is not None for group in ranked)
    what = "Subsets of the primitives" if subsets else "Rules"
    best = [(name, text.setting(value)) for name, value in (ranked[0].best_params or {}).items()]
    unfinished = results.running or results.settled < results.planned
    facts = [
        str(record.setting("model") or ""),
        f"{text.counted(results.settled, 'trial')} of {results.planned}",
        text.counted(len(ranked), "subset" if subsets else "rule"),
        text.counted(int(record.setting("epochs") or 0), "epoch"),
        None if results.seconds is None else text.duration(results.seconds),
    ]
    return Page(
        record,
        title=f"{what} searched on {text.title(str(record.setting('data') or 'data'))}",
        facts=facts,
        headline=Headline("Unfinished" * bool(unfinished), _summary(results, ranked, promotion)),
        sections=[
            Section("ranking", f"{what} by rank", _ranking(ranked, complete, promotion, low)),
            Section("together", "What helps together", _together(results, promotion) if subsets else []),
            Section("promoted", "Trained again", _promoted(promotion)),
            Section("transfer", "Transfer", _transfer(record.beside.get("transfer.json") or Transfer())),
            Section("best", "Best so far", [_best_so_far(results, ranked)]),
            Section("slices", "Slices", _slices(complete, low)),
            Section("importance", "Importance", _importances(results)),
            Section("pairs", "Pairs of values", _pairs(complete, results)),
            Section("failures", "Failures", _failures(results.trials)),
            Section("trial", "The best trial", [Pairs(best)]),
        ],
    )


def _summary(results: SearchResults, ranked: Sequence[SearchGroup], promotion: Promotion) -> str:
    ended = {end: sum(group.ended.get(end, 0) for group in ranked) for end in ("complete", "pruned")}
    failed, left = sum(group.failed for group in ranked), results.planned - results.settled
    said = [] if ended["complete"] else ["No trial is complete yet."]
    if ended["complete"]:
        complete, first = text.counted(ended["complete"], "complete trial"), ranked[0]
        number, best = first.best_number, text.percent(first.best)
        said.append(text.caption("search_best", complete=complete, number=number, group=first.group, best=best))
        last = next(group for group in reversed(ranked) if group.best is not None)
        if last is not first:
            said.append(text.caption("search_last", group=last.group, best=text.percent(last.best)))
    said += [f"{ended['pruned']} were ended early, {failed} failed."] if ended["pruned"] or failed else []
    for top in promotion.rows[:1]:
        seeds, test = text.counted(len(top.accuracies), "fresh seed"), text.percent(top.mean) + _half(top.interval)
        said.append(text.caption("search_promoted", seeds=seeds, number=top.number, group=top.group, test=test))
    said += [f"{text.counted(left, 'trial')} still to come."] if left > 0 else []
    return " ".join([*said, "The best of many trials is partly luck: compare test accuracies."])


def _half(interval: float | None) -> str:
    return "" if interval is None else f" ± {text.percent(interval)}"


def _ranking(
    ranked: Sequence[SearchGroup], complete: Sequence[SearchTrial], promotion: Promotion, low: float
) -> list[Block]:
    tested = {
        group: Cell(text.percent(row.mean), _half(row.interval).strip())
        for group, row in _tested(ranked, promotion).items()
    }
    rows = list[list[Cell | str]]()
    for group in ranked:
        values = sorted(trial.value or 0.0 for trial in complete if trial.group == group.group)
        quartiles, strip = group.quartiles, Cell("")
        if values:
            told = f"{group.group}: {text.counted(len(values), 'complete trial')} from {text.percent(values[0])} % to "
            marks = [max(low, value) for value in _every(values, 80)]
            bar = None if quartiles is None else (quartiles[0], max(quartiles[2], quartiles[0] + 0.002))
            strip = Cell(figure.inline(f"{told}{text.percent(values[-1])} %.", low - 0.01, 1.005, bar, marks))
        counts = [group.ended.get("complete", 0), group.ended.get("pruned", 0), group.failed]
        test = [tested.get(group.group, text.DASH)] if tested else []
        median = text.percent(None if quartiles is None else quartiles[1])
        rows.append([group.group, text.percent(group.best), median, *test, *map(str, counts), strip])
    heads = ["Rule or subset", "Best, %", "Median, %", *(["Test, %"] if tested else [])]
    about = {"Best, median": "about_best", "Test": "about_test", "All trials": "about_trials"}
    words = {name: text.caption(key, low=text.percent(low)) for name, key in about.items() if tested or name != "Test"}
    return [Table([*heads, "Complete", "Pruned", "Failed", "All trials"], rows), Pairs(list(words.items()))]


def _tested(groups: Sequence[SearchGroup], promotion: Promotion) -> dict[str, PromotedTrial]:
    """Of each group the trial that was best in the search, if it was trained again."""
    best = {(group.group, group.best_number) for group in groups}
    return {row.group: row for row in promotion.rows if (row.group, row.number) in best}


def _every(values: Sequence[Any], most: int = MOST) -> Sequence[Any]:
    """At most ``most`` of the values, evenly, with the first and the last."""
    if len(values) <= most:
        return values
    return [values[round(k * (len(values) - 1) / (most - 1))] for k in range(most)]


def _scores(results: SearchResults, promotion: Promotion) -> tuple[Scores, bool]:
    """The accuracy of each subset, and whether it is a test accuracy: the median of fresh seeds, where all were tested.

    One seed that went wrong would outweigh all else in a mean; a subset most of whose seeds diverged has no accuracy.
    Otherwise the best of the search, which is partly luck.
    """

    def median(accuracies: Sequence[float | None]) -> float | None:
        found = sorted(0.0 if accuracy is None else accuracy for accuracy in accuracies)
        return None if 2 * accuracies.count(None) >= len(accuracies) else statistics.median(found)

    tested = {group: median(row.accuracies) for group, row in _tested(results.groups, promotion).items()}
    whole = all(group.group in tested for group in results.groups)
    return {frozenset(g.subset or ()): tested[g.group] if whole else g.best for g in results.groups}, whole


def effects(scores: Scores) -> dict[tuple[int, int], float]:
    """By (row, column) of the primitives: the accuracy with both rather than neither, others equal, on average.

    On the diagonal: with the one primitive rather than without it. Pairs of subsets are left out where one has no
    accuracy.
    """
    found = {}
    for row, column in itertools.combinations_with_replacement(range(len(PRIMITIVES)), 2):
        pair = {PRIMITIVES[row], PRIMITIVES[column]}
        others = [name for name in PRIMITIVES if name not in pair]
        contexts = (c for size in range(len(others) + 1) for c in itertools.combinations(others, size))
        both = [(scores.get(frozenset({*context, *pair})), scores.get(frozenset(context))) for context in contexts]
        differences = [one - other for one, other in both if one is not None and other is not None]
        if differences:
            found[column, row] = statistics.fmean(differences)
    return found


def _together(results: SearchResults, promotion: Promotion) -> list[Block]:
    scores, tested = _scores(results, promotion)
    found = effects(scores)
    most = max((abs(effect) for effect in found.values()), default=0.0) or 1.0

    def cell(row: int, column: int) -> Cell:
        effect = found.get((row, column))
        return Cell("" if column > row else text.points(effect), tint=(effect or 0.0) / most)

    rows: Rows = [[name, *(cell(n, column) for column in range(len(PRIMITIVES)))] for n, name in enumerate(PRIMITIVES)]
    what = "median test accuracy of fresh seeds" if tested else "best validation accuracy"
    end = "Read it beside the intervals of the test accuracies." if tested else "A point may be luck."
    return [Table(["", *PRIMITIVES], rows if found else [], text.caption("together", what=what, end=end))]


def _promoted(promotion: Promotion) -> list[Block]:
    rows = list[list[Cell | str]]()
    for row in promotion.rows:
        gone = sum(accuracy is None for accuracy in row.accuracies)
        seeds = f"{len(row.accuracies)}" + (f", {gone} diverged" if gone else "")
        test = Cell(text.percent(row.mean), _half(row.interval).strip())
        rows.append([f"{row.number} {row.group}", text.percent(row.validation), test, seeds])
    return [Table(["Trial", "Validation, %", "Test, %", "Seeds"], rows, text.caption("promoted"))]


def _transfer(transfer: Transfer) -> list[Block]:
    models, rows = transfer.models, list[list[Cell | str]]()
    for row in transfer.rows:
        lost = {m: row.models[m].lost for m in models if m != models[0] and row.group != "backprop"}
        spread = {model: text.points(points) for model, points in lost.items() if points is not None}
        rows.append([row.group, *(Cell(text.percent(row.models[m].mean), spread.get(m, "")) for m in models)])
    caption = text.caption("transfer", model=models[0]) if rows else ""
    return [Table(["Rule", *models], rows, caption)]


def _best_so_far(results: SearchResults, ranked: Sequence[SearchGroup]) -> Block:
    groups = [group.group for group in ranked if group.best is not None][:CURVES]
    if not groups:
        return Text("No trial is complete yet.")
    shown = {}
    for n, group in enumerate(groups):
        values = [(t.value if t.end == "complete" else None) or -math.inf for t in results.trials if t.group == group]
        best = list(itertools.accumulate(values, max))
        ends = {0, len(best) - 1}  # and both sides of every step
        keep = [k for k in range(len(best)) if k in ends or best[k] != best[k - 1] or best[k] != best[k + 1]]
        shown[group] = through((k + 1, best[k]) for k in keep), figure.look(n)
    scale = figure.scale_of([y for curve, _ in shown.values() for _, y in curve.known])
    scale = Scale(scale.low, min(1.0, scale.high), factor=100)
    return overview(text.caption("best", n=len(shown)), shown, scale, "trial", "best so far, %", text.percent)


def _values(complete: Sequence[SearchTrial]) -> dict[str, list[tuple[Any, float]]]:
    """(sampled value, accuracy) of the complete trials that have it, by name."""
    found: dict[str, list[tuple[Any, float]]] = {}
    for trial in complete:
        for name, value in trial.params.items():
            found.setdefault(name, []).append((value, trial.value or 0.0))
    return {name: points for name, points in found.items() if len(points) >= LEAST}


def _is_number(points: Sequence[tuple[Any, float]]) -> bool:
    return all(isinstance(value, float | int) and not isinstance(value, bool) for value, _ in points)


def _slices(complete: Sequence[SearchTrial], low: float) -> list[Block]:
    panels, scale = [], Scale(low - 0.01, 1.0, factor=100)
    for name, found in _values(complete).items():
        label = f"Accuracy of {len(found)} trials against {name}."
        named = [] if _is_number(found) else sorted({text.setting(x) for x, _ in found})
        shown = _every(sorted(found, key=lambda point: (text.setting(point[0]) if named else point[0], point[1])))
        ys = [max(low, y) for _, y in shown]
        if named:  # spread within their row, so that they do not hide each other
            rows = [named.index(text.setting(x)) + 0.5 * ((k * 0.618) % 1 - 0.5) for k, (x, _) in enumerate(shown)]
            drawing = figure.points(label, ys, rows, scale, Scale(), names=named)
        else:
            xs = [float(x) for x, _ in shown]
            drawing = figure.points(label, xs, ys, figure.scale_of(xs, log=True), scale)
        panels.append(Panel(name, drawing))
    return [Figure(text.caption("slices", low=text.percent(low)), panels)]


def _shares(results: SearchResults) -> list[tuple[str, float, str]]:
    """Name, mean share over the groups and the group in which it is largest; the largest share first."""
    found, rows = results.importances, list[tuple[str, float, str]]()
    for name in dict.fromkeys(name for shares in found.values() for name in shares):
        own = {group: shares[name] for group, shares in found.items() if name in shares}
        rows.append((name, statistics.fmean(own.values()), max(own, key=lambda group: own[group])))
    return sorted(rows, key=lambda row: -row[1])


def _importances(results: SearchResults) -> list[Block]:
    rows = list[list[Cell | str]]()
    for name, share, most in _shares(results):
        bar = Cell(figure.inline(f"{name}: {text.percent(share)} %.", 0, 1, (0, share)))
        top = f"{most} ({text.percent(results.importances[most][name])})"
        rows.append([name, bar, text.percent(share), top])
    return [Table(["What varied", "Share", "in %", "Largest in"], rows, text.caption("importance"))]


def _pairs(complete: Sequence[SearchTrial], results: SearchResults) -> list[Block]:
    """The numbers that matter most, two by two, with the accuracy as a shade."""
    numbers = [name for name, points in _values(complete).items() if _is_number(points)]
    order = [name for name, _, _ in _shares(results)]
    numbers.sort(key=lambda name: order.index(name) if name in order else len(order))
    values = sorted(trial.value or 0.0 for trial in complete)
    panels = []
    for one, other in itertools.combinations(numbers[:4], 2):
        both = [trial for trial in complete if one in trial.params and other in trial.params]
        if len(both) >= LEAST:
            shown = sorted(_every(both), key=lambda trial: trial.value or 0.0)
            xs, ys = ([float(trial.params[name]) for trial in shown] for name in (one, other))
            shades = [bisect.bisect_left(values, t.value or 0.0) / len(values) for t in shown]
            scales = [figure.scale_of(found, log=True) for found in (xs, ys)]
            label = f"Accuracy of {len(both)} trials by {one} and {other}."
            drawing = figure.points(label, xs, ys, scales[0], scales[1], shades=shades)
            panels.append(Panel(f"{other} (upwards) and {one}", drawing))
    if not panels:
        return []
    edges = [text.percent(values[min(len(values) - 1, round(k * len(values) / 7))]) for k in range(8)]
    spans = [f"{one}–{other}" for one, other in itertools.pairwise(edges)]
    looks = {span: Look(colour, width=12) for span, colour in zip(spans, SHADES, strict=True)}
    return [Figure(text.caption("pairs"), panels, key=key(looks))]


def _failures(trials: Sequence[SearchTrial]) -> list[Block]:
    # Without the numbers of steps in them, so that the same reasons are counted together.
    counted = Counter(
        (t.end, " ".join("…" if word.isdigit() else word for word in t.reason.split()))
        for t in trials
        if t.end in ("diverged", "error", "lost")
    )
    rows = [[f"{end}: {reason}".removesuffix(": "), str(n)] for (end, reason), n in counted.most_common(REASONS)]
    return [Table(["How trials failed most often", "Trials"], rows)]
