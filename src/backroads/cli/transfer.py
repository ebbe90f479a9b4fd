"""``backroads transfer``: the best of a study, unchanged, on other architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def transfer(
    study: Annotated[Path, Parameter(help="Folder of the study.")],
    /,
    *,
    models: Annotated[list[str], Parameter(help="Other networks, by name.")],
    top: Annotated[int, Parameter(help="How many of the best rules or subsets.")] = 8,
    seeds: Annotated[int, Parameter(help="Seeds for each.")] = 3,
    workers: Annotated[int, Parameter(help="Processes.")] = 1,
) -> None:
    """Train the best of each rule, unchanged, on other architectures, beside backprop.

    What is lost in transfer is the gap to backprop there, less the gap on the searched network.
    """
    from backroads.cli.search import _aligned, _positive, _report, _say
    from backroads.search.promote import transfer as run
    from backroads.search.run import study_in

    _positive(top=top, seeds=seeds, workers=workers)
    # "a,b" and "a b" alike
    names = [name for word in models for name in word.split(",") if name]
    with study_in(study) as (storage, config):
        table = run(storage, config, study, models=names, top=top, seeds=seeds, workers=workers, say=_say)
        lines = [("rule or subset", *table["models"])]
        for row in table["rows"]:
            cells = []
            for model in table["models"]:
                cell = row["models"][model]
                lost = "" if cell["lost"] is None or row["group"] == "backprop" else f" ({100 * cell['lost']:+.1f})"
                cells.append("-" if cell["mean"] is None else f"{100 * cell['mean']:.1f}{lost}")
            lines.append((row["group"], *cells))
        print(_aligned(lines))
        print(f"test accuracy in %, mean of {seeds} seeds; in brackets points lost in transfer, beside backprop")
        print(f"report: {_report(storage, config, study)}")
