"""What the page of a search says: the ranked table, how sensitive each rule is, what mattered, and how to repeat it."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from backroads.report import figures, text
from backroads.report.page import render
from backroads.report.panels import FigureParts, Panel
from backroads.report.search_figures import best_so_far, choice_panel, slice_panel, steps, strip, together
from backroads.report.search_run import Group, Search, Trial

PRIMITIVES = ("decay", "amp", "null", "sparse", "self")
CURVES = 8  # groups in the figure of best-so-far curves
LEAST = 4  # trials with a value, for a slice
REASONS = 6  # in the list of failures


@dataclass(frozen=True)
class Line:
    """One row of the ranked table."""

    place: int
    group: str
    dots: Sequence[bool] | None
    best: str
    median: str
    complete: int
    pruned: int
    failed: int
    planned: int
    test: str
    strip: Markup | None


def search_page(search: Search) -> str:
    """The whole page."""
    results = search.results
    low = _low(results.trials)
    ranked = sorted(results.groups, key=lambda group: -1.0 if group.best is None else group.best, reverse=True)
    subsets = all(group.subset is not None for group in ranked)
    scores, tested = _scores(search)
    return render(
        "search.html.j2",
        title=_title(search),
        facts=_facts(search),
        summary=_summary(search, ranked),
        subsets=subsets,
        primitives=PRIMITIVES,
        lines=[_line(search, place, group, low) for place, group in enumerate(ranked, 1)],
        low=text.percent(low),
        tested=bool(search.promoted),
        together=_together(scores) if subsets else None,
        together_tested=tested,
        curve=_best_so_far(search, ranked),
        slices=_slices(results.trials, low),
        importances=_importances(search),
        promoted=search.promoted,
        percent=text.percent,
        points=text.points,
        transferred=search.transferred,
        models=search.models,
        failures=_failures(results.trials),
        settings=text.settings(results.settings),
        best=_best(ranked),
        environment=[(key, text.setting(value)) for key, value in search.environment.items()],
        command=search.environment.get("command"),
        commit=search.environment.get("commit"),
        dirty=search.environment.get("uncommitted_changes") is True,
    )


def _low(trials: Sequence[Trial]) -> float:
    """Where the axes of accuracy begin: most trials are above."""
    values = sorted(trial.value for trial in trials if trial.end == "complete" and trial.value is not None)
    if not values:
        return 0.0
    tenth = values[len(values) // 10]
    return max(0.0, min(0.95, int(20 * tenth) / 20 - 0.05))


def _title(search: Search) -> str:
    settings = search.results.settings
    what = "Subsets of the primitives" if search.results.groups[0].subset is not None else "Rules"
    return f"{what} searched on {settings.get('data', 'data')}"


def _facts(search: Search) -> list[str]:
    results = search.results
    facts = [
        str(results.settings.get("model", "")),
        f"{text.counted(results.settled, 'trial')} of {results.planned}",
        text.counted(len(results.groups), "subset" if results.groups[0].subset is not None else "rule"),
        text.counted(int(results.settings.get("epochs", 0)), "epoch"),
        None if results.seconds is None else text.duration(results.seconds),
        str(search.environment.get("started", ""))[:10],
    ]
    return [fact.replace(" ", text.NBSP) for fact in facts if fact]


def _summary(search: Search, ranked: Sequence[Group]) -> str:
    results = search.results
    complete = sum(group.ended.get("complete", 0) for group in ranked)
    if not complete:
        return "No trial is complete yet."
    first = ranked[0]
    sentences = [
        f"The best of {text.counted(complete, 'complete trial')} is trial {first.best_slot} of {first.group}, with a "
        f"validation accuracy of {text.percent(first.best)} %."
    ]
    last = next(group for group in reversed(ranked) if group.best is not None)
    if last is not first:
        sentences.append(f"The best trial of {last.group}, the last in rank, has {text.percent(last.best)} %.")
    pruned = sum(group.ended.get("pruned", 0) for group in ranked)
    failed = sum(group.failed for group in ranked)
    if pruned or failed:
        sentences.append(f"{pruned} were ended early, {failed} failed.")
    if search.promoted:
        top = search.promoted[0]
        sentences.append(
            f"Trained again on the whole training split with {text.counted(len(top.accuracies), 'fresh seed')}, "
            f"trial {top.slot} of {top.group} leads with a test accuracy of {text.percent(top.mean)} %"
            + (f" ± {text.percent(top.interval)}" if top.interval is not None else "")
            + "."
        )
    if results.running or results.settled < results.planned:
        sentences.append(f"The search is not finished: {results.planned - results.settled} trials are left.")
    sentences.append("The best of many trials is above what it would reach again: compare test accuracies.")
    return " ".join(sentences)


def _line(search: Search, place: int, group: Group, low: float) -> Line:
    trials = search.results.trials
    values = [t.value for t in trials if t.group == group.group and t.end == "complete" and t.value is not None]
    test = next((row for row in search.promoted if row.group == group.group), None)
    told = "" if test is None else text.percent(test.mean)
    if test is not None and test.interval is not None:
        told += f" ± {text.percent(test.interval)}"
    median = None if group.quartiles is None else group.quartiles[1]
    return Line(
        place,
        group.group,
        None if group.subset is None else [name in group.subset for name in PRIMITIVES],
        text.percent(group.best),
        text.percent(median),
        group.ended.get("complete", 0),
        group.ended.get("pruned", 0),
        group.failed,
        group.planned,
        told,
        strip(f"strip-{place}", _spread(group.group, values), values, group.quartiles, low) if values else None,
    )


def _spread(name: str, values: Sequence[float]) -> str:
    return (
        f"{name}: {text.counted(len(values), 'complete trial')} from {text.percent(min(values))} % to "
        f"{text.percent(max(values))} %"
    )


Scores = Mapping[frozenset[str], float | None]  # accuracy of each subset


def _scores(search: Search) -> tuple[Scores, bool]:
    """The accuracy of each subset, and whether that is a test accuracy: the best of the search if not all were tested.

    The best of many trials is partly luck, and more so the more its trials scatter; fresh seeds have none of that. The
    median of theirs, as one training that went wrong would outweigh all else; none, if most diverged.
    """
    groups = search.results.groups
    tested = {row.group: _median(row.accuracies) for row in search.promoted}
    whole = all(group.group in tested for group in groups)
    return {frozenset(g.subset or ()): tested[g.group] if whole else g.best for g in groups}, whole


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


def _together(scores: Scores) -> Markup | None:
    found = effects(scores)
    if not found:
        return None
    told = "; ".join(
        (PRIMITIVES[row] if row == column else f"{PRIMITIVES[column]} with {PRIMITIVES[row]}")
        + f" {text.points(effect)}"
        for (row, column), effect in found.items()
    )
    return together("together", f"Effect on the accuracy in points: {told}.", PRIMITIVES, found)


def _best_so_far(search: Search, ranked: Sequence[Group]) -> FigureParts | None:
    shown = [group for group in ranked if group.best is not None][:CURVES]
    if not shown:
        return None
    trials = search.results.trials
    curves = [
        steps([t.value if t.end == "complete" else None for t in trials if t.group == group.group]) for group in shown
    ]
    looks = [figures.look(n) for n in range(len(shown))]
    told = text.listing([f"{group.group} {text.percent(group.best)} %" for group in shown])
    return FigureParts(
        panels=(),
        notes=(),
        overview=best_so_far(
            "best", f"Best accuracy so far against trials of each. At the end: {told}.", curves, looks
        ),
        key=[
            Panel(group.group, figures.swatch(f"best-{n}", looks[n]), text.percent(group.best))
            for n, group in enumerate(shown)
        ],
    )


def _slices(trials: Sequence[Trial], low: float) -> list[Panel]:
    complete = [trial for trial in trials if trial.end == "complete" and trial.value is not None]
    panels = []
    for name in dict.fromkeys(name for trial in complete for name in trial.params):
        points = [(trial.params[name], trial.value) for trial in complete if name in trial.params]
        if len(points) < LEAST:
            continue
        label = f"Accuracy of {len(points)} trials against {name}."
        if all(isinstance(x, float) for x, _ in points):
            numbers = [(float(x), float(y)) for x, y in points if y is not None]
            panels.append(Panel(name.rstrip("_"), slice_panel(f"slice-{name}", label, numbers, low)))
            continue
        choices = sorted({str(x) for x, _ in points})
        by_choice = {
            n: [float(y) for x, y in points if str(x) == c and y is not None] for n, c in enumerate(choices, 1)
        }
        named = ", ".join(f"{n} {choice}" for n, choice in enumerate(choices, 1))
        panels.append(Panel(f"{name}: {named}", choice_panel(f"slice-{name}", label, by_choice, low)))
    return panels


def _importances(search: Search) -> list[tuple[str, str, str]]:
    """Dimension, mean share over the groups, and the group in which it is largest."""
    found = search.results.importances
    names = dict.fromkeys(name for shares in found.values() for name in shares)
    rows = []
    for name in names:
        own = {group: shares[name] for group, shares in found.items() if name in shares}
        most = max(own, key=lambda group: own[group])
        rows.append((statistics.fmean(own.values()), name.rstrip("_"), f"{most} ({text.percent(own[most])})"))
    return [(name, text.percent(mean), most) for mean, name, most in sorted(rows, reverse=True)]


def _failures(trials: Sequence[Trial]) -> list[str]:
    counted = Counter((t.end, _kind(t.reason)) for t in trials if t.end in ("diverged", "error", "lost"))
    lines = [f"{n} × {end}" + (f": {reason}" if reason else "") for (end, reason), n in counted.most_common(REASONS)]
    rest = sum(counted.values()) - sum(n for _, n in counted.most_common(REASONS))
    return lines + ([f"{rest} for other reasons"] if rest else [])


def _kind(reason: str) -> str:
    """A reason without the number of its step, so that the same ones are counted together."""
    return " ".join("…" if word.isdigit() else word for word in reason.split())


def _best(ranked: Sequence[Group]) -> list[tuple[str, str]]:
    if not ranked or ranked[0].best_params is None:
        return []
    return [(name.rstrip("_"), text.setting(value)) for name, value in ranked[0].best_params.items()]
