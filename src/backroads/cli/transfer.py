"""``backroads transfer``: the best of a study, unchanged, on other architectures."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from backroads.cli.search import POSITIVE, Storage, Study, write_results
from backroads.cli.shared import Trust, print_line
from backroads.runs.table import aligned


def transfer(
    study: Study,
    /,
    *,
    models: Annotated[list[str], Parameter(help="Other networks, by name.")],
    top: Annotated[int, Parameter(help="How many of the best rules or subsets to train.", validator=POSITIVE)] = 8,
    seeds: Annotated[int, Parameter(help="How many seeds each is trained with.", validator=POSITIVE)] = 3,
    workers: Annotated[int, Parameter(help="How many processes train.", validator=POSITIVE)] = 1,
    storage: Storage = None,
    trust: Trust = False,
) -> None:
    """Train the best of each rule, unchanged, on other architectures, beside backprop.

    What is lost in transfer is the gap to backprop there, less the gap on the searched network.
    """
    from backroads.runs.lock import locked
    from backroads.search.promote import BACKPROP
    from backroads.search.promote import transfer as run
    from backroads.search.run import study_in

    names = [name for word in models for name in word.split(",") if name]  # "a,b" and "a b" alike
    with study_in(study, storage=storage, trust=trust) as client, locked(study):
        table = run(client, study, models=names, top=top, seeds=seeds, workers=workers, log=print_line)
        lines = [("rule or subset", *table.models)]
        for row in table.rows:
            cells = []
            for cell in (row.models[model] for model in table.models):
                lost = "" if cell.lost is None or row.group == BACKPROP else f" ({100 * cell.lost:+.1f})"
                cells.append("-" if cell.mean is None else f"{100 * cell.mean:.1f}{lost}")
            lines.append((row.group, *cells))
        print(*aligned(lines), sep="\n")
        print(f"test accuracy in %, mean of {seeds} seeds; in brackets points lost in transfer, compared with backprop")
        print(f"report: {write_results(client, study)}")
