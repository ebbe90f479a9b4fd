"""The price of not transporting weights: accuracy and angle against the rows of noise that a training takes.

    python benchmarks/noise_rows.py --data folder:PATH --runs PATH [--network vgg] [--only rows=131]

Rows are counted for each input of a neuron, over the whole training. They come in steps spread evenly over it,
some eight rows in one of them (one example, the least a layer can get, is up to seven in these convolutions); where
every step has that many, they get more, at most what the batch has; the mirrored rule's first rows come no faster than
the others. Networks and recipes are those of ``benchmarks/local_rules.py``.
"""

from __future__ import annotations

from typing import Any

from grid import RECIPE, Arm, gap_of, markdown, parser, rows_of, run_grid, spread
from local_rules import NETWORKS

ROWS = [10, 30, 131, 1_000, 10_000, 100_000]
EXAMPLES = 50_000
AT_ONCE = 8  # rows in a step, until every step has so many


def arms_of(network: str, epochs: int | None) -> list[Arm]:
    """Backpropagation, Kolen-Pollack without noise, and each rule at each total of rows that it can be given."""
    made = NETWORKS[network]
    epochs = epochs or made.epochs
    steps = epochs * (EXAMPLES // RECIPE["batch_size"])
    shared = {**RECIPE, **made.recipe, "epochs": epochs, "warmup_epochs": min(1.0, epochs / 2)}
    shared |= {"model": made.model, "model_options": made.options, "split": "test"}
    found = [("backprop", 0, {"rule": "backprop"}), ("Kolen-Pollack", 0, {"rule": "kolen_pollack"})]
    for total in ROWS:
        every = max(1, steps // max(1, round(total / AT_ONCE)))
        rows = total / len(range(0, steps, every))
        mirrored = {"rule": "mirrored_kolen_pollack", "rule_options": {"rows": rows, "every": every, "first": 0.0}}
        found.append(("mirrored Kolen-Pollack", total, mirrored))
        if total <= 1_000:  # a phase of more takes longer than the training
            found.append(
                ("one phase, then Kolen-Pollack", total, {"rule": "kolen_pollack", "mirror_rows": float(total)})
            )
        # The rule multiplies its gradient by ``every``: with this rate a step with noise goes a tenth of the way.
        alone: dict[str, Any] = {"rate": 0.1 / every, "rows_per_input": rows, "every": every}
        found.append(("white noise mirror", total, {"rule": "white_noise_mirror", "rule_options": alone}))
    return [Arm({"network": network, "rule": rule, "rows": rows}, {**shared, **own}) for rule, rows, own in found]


def table(results: dict[str, Any]) -> str:
    """A row for each network and total of rows, a column for each rule: gap to backpropagation and mean angle."""
    rows = rows_of(results)
    found = {(row["network"], row["rows"], row["rule"]): row for row in rows}
    rules = [rule for rule in dict.fromkeys(row["rule"] for row in rows) if rule != "backprop"]
    cells = []
    for network, total in sorted({(row["network"], row["rows"]) for row in rows}):
        base = found[network, 0, "backprop"]
        name = (
            f"{network}, {base['settings']['epochs']} epochs: {spread(base['accuracy_mean'], base['accuracy_std'])} %"
        )
        own = [found.get((network, total, rule)) for rule in rules]
        cells.append(
            [name, f"{total:,}", *("" if row is None else f"{gap_of(row)} ({row['angle_mean']:.1f}°)" for row in own)]
        )
    return markdown(["network, backprop", "rows per input", *rules], cells)


def main() -> None:
    parse = parser(__doc__, "noise_rows")
    parse.set_defaults(seeds=[0])
    parse.add_argument("--network", default="resnet8", choices=list(NETWORKS))
    parse.add_argument("--epochs", type=int, help="in place of the network's own")
    given = parse.parse_args()
    print(table(run_grid(arms_of(given.network, given.epochs), given, baseline={"rule": "backprop", "rows": 0})))


if __name__ == "__main__":
    main()
