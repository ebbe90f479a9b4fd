"""The comparison in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from backroads.report import text
from backroads.report.panels import BACKPROP
from backroads.report.runs import Comparison, Row, Run, setting_of


def summary(run: Run) -> str:
    """One sentence: who is within one point of backprop, who is the lowest, over how many seeds."""
    results, data = run.results, setting_of(run.config, "data")
    reference = next((row for row in results.rows if row.rule == BACKPROP), None)
    others = [row for row in results.rows if row.rule != BACKPROP]
    clauses = [_against(reference, others, results.split), _lowest(others), _divergences(results)]
    start = f"On {data}, " if isinstance(data, str) else ""
    clauses.append(f"n = {text.counted(results.n_seeds, 'seed')}, {_spread(results.n_seeds)}")
    return f"{start}{'; '.join(clause for clause in clauses if clause)}."


def _against(reference: Row | None, others: Sequence[Row], split: str) -> str:
    """Which rules come near backprop."""
    if reference is None or reference.accuracy_mean is None:
        known = [row for row in others if row.accuracy_mean is not None]
        if not known:
            return f"no rule has a finite {split} accuracy"
        best = max(known, key=lambda row: row.accuracy_mean or 0.0)
        return f"{best.label} has the highest {split} accuracy, {_accuracy(best)}, and backprop has none to compare"
    level = f"{reference.label}’s {_accuracy(reference)} {split} accuracy"
    if not others:
        return f"{reference.label} reaches {_accuracy(reference)} {split} accuracy and was run alone"
    # As many digits as the table shows, so that the two agree.
    near = [row for row in others if row.gap_mean is not None and round(100 * row.gap_mean, 1) >= -1]
    above = any(round(100 * (row.gap_mean or 0.0), 1) > 1 for row in near)
    who = "no other rule ends" if not near else f"{_names(near, others)} {'ends' if len(near) == 1 else 'end'}"
    return f"{who} within one point of {level}" + (" or above it" if above else "")


def _names(rows: Sequence[Row], all_rows: Sequence[Row]) -> str:
    if len(rows) == len(all_rows) > 1:
        return f"all {len(rows)} other rules"
    return text.listing([row.label for row in rows])


def _lowest(rows: Sequence[Row]) -> str:
    """The rule with the lowest accuracy, when there are several."""
    known = [row for row in rows if row.accuracy_mean is not None]
    if len(known) < 2:
        return ""
    lowest = min(known, key=lambda row: row.accuracy_mean or 0.0)
    distance = "" if lowest.gap_mean is None else f" (gap {text.points(lowest.gap_mean)} points)"
    return f"the lowest is {lowest.label} at {_accuracy(lowest)}{distance}"


def _divergences(results: Comparison) -> str:
    found = [f"{row.label} ({row.diverged} of {results.n_seeds})" for row in results.rows if row.diverged]
    return f"seeds diverged under {text.listing(found)}" if found else ""


def _accuracy(row: Row) -> str:
    alone = row.accuracy_std is None or len(row.accuracies) == 1
    spread = "" if alone else f"± {text.percent(row.accuracy_std)} "
    return f"{text.percent(row.accuracy_mean)} {spread}%".replace(" ", text.NBSP)


def _spread(seeds: int) -> str:
    return "spread = sample standard deviation" if seeds > 1 else "no spread"
