"""What came of a campaign of ``backroads reproduce``, as the docs show it.

    backroads reproduce run CLAIM --scale desk --known benchmarks/results/claims.json --out FOLDER
    python benchmarks/claims.py FOLDER [--out FILE]

Takes the folder's results, brought up to date, and adds on what machines and from which commits its trainings came.
Claims of which the file has more trainings stay as they are there, as do trainings that are not in the folder. The
table of verdicts in README.md is written anew.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grid import RESULTS, markdown

from backroads.report.reproduction import FRACTIONS
from backroads.reproduce.arms import arms_of
from backroads.reproduce.claims import claim_ids
from backroads.reproduce.run import campaign_in, gather
from backroads.runs.files import write_json
from backroads.runs.folder import CONFIG, ENVIRONMENT
from backroads.runs.schema import as_data
from backroads.runs.settings import read_toml

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- claims: written by benchmarks/claims.py -->", "<!-- end of claims -->"


MANY = 10  # numbers in a cell
MACHINE = ("device", "cpu", "cores", "threads", "torch", "python", "platform")


def collected(folder: Path) -> dict[str, Any]:
    """The results, and the machines on which their trainings ran; no place of data on them."""
    found = as_data(gather(campaign_in(folder), folder))
    found["settings"]["data"] = dict.fromkeys(found["settings"]["data"], "PATH")
    return {**found, "machines": machines_of(folder)}


def added(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """New results with what only the old ones have: claims that came further there, trainings, machines."""
    if new["scale"] != old["scale"]:
        raise ValueError(f"expected results of the scale {old['scale']}, got {new['scale']}; give another --out")
    claims = {claim["id"]: claim for claim in old["claims"]}
    for claim in new["claims"]:
        if claim["id"] not in claims or claim["done"] >= claims[claim["id"]]["done"]:
            claims[claim["id"]] = claim
    ids = [id for id in claim_ids() if id in claims]
    return {
        **new,
        "claims": [claims[id] for id in ids],
        "settings": {**new["settings"], "claims": ids, "data": {**old["settings"]["data"], **new["settings"]["data"]}},
        "trainings": {**old.get("trainings", {}), **new["trainings"]},
        "machines": joined([*old["machines"], *new["machines"]]),
    }


def joined(machines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each machine once, with all of its claims and commits."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for machine in machines:
        of = {name: machine[name] for name in MACHINE}
        own = found.setdefault(tuple(of.values()), {**of, "claims": [], "commits": []})
        for name in ("claims", "commits"):
            own[name] = sorted({*own[name], *machine[name]})
    return list(found.values())


def machines_of(folder: Path, kinds: Sequence[str] = ("train", "meta")) -> list[dict[str, Any]]:
    """The machines on which trainings of a campaign ran, each with their claims and commits.

    Args:
        folder: of the campaign. kinds: of trainings: "train", "meta".
    """
    campaign = campaign_in(folder)
    found = []
    for claim in campaign.claims:
        for arm in arms_of(claim, campaign, folder):
            if arm.kind in kinds and (end := arm.outcome(folder)).done and not end.known:
                run = json.loads((folder / arm.folder / ENVIRONMENT).read_text(encoding="utf-8"))
                of = {name: run[name] for name in MACHINE}
                if read_toml(folder / arm.folder / CONFIG)["run"]["device"] == "cpu":  # whatever else is in there
                    of["device"] = "cpu"
                found.append({**of, "claims": [claim.id], "commits": [commit] if (commit := run["commit"]) else []})
    return joined(found)


def shown(value: float | None, name: str) -> str:
    """A difference with its sign: in points for accuracies and shares, else as it is."""
    if value is None:
        return "-"
    return f"{100 * value:+.2f}" if name in FRACTIONS else f"{value:+.3g}"


def verdicts(results: dict[str, Any]) -> str:
    """A row for each decision of which something has been trained: its verdict, mean, interval, and numbers by seed."""
    cells = []
    for claim in results["claims"]:
        for one in claim["decisions"]:
            if one["differences"]:
                so_far = "so far: " if claim["verdict"] == "not run" else ""
                numbers = [one["mean"], one["low"], one["high"], *one["differences"]]
                mean, low, high, *each = (shown(value, one["value"]) for value in numbers)
                by_seed = ", ".join(each) if len(each) <= MANY else f"{len(each)} trials"
                done = f"{claim['done']} of {claim['trainings']}"
                row = [claim["id"], one["says"], so_far + one["verdict"], f"{mean} [{low}, {high}]", by_seed]
                cells.append([*row, done])
    head = ["claim", "decision", "verdict", "mean [95 % interval]", "by seed", "trainings"]
    return markdown(head, cells)


def summary(results: dict[str, Any]) -> str:
    """A row for each claim that has been run to its end, and a line of those that have not.

    Of a claim with more than four decisions, those that brought about its verdict stand there, and how many others.
    """
    cells = []
    for claim in results["claims"]:
        if claim["verdict"] == "not run":
            continue
        decisions = claim["decisions"]
        rows = [one for one in decisions if len(decisions) <= 4 or one["verdict"] == claim["verdict"]]
        lines = []
        for one in rows:
            mean, low, high = (shown(one[name], one["value"]) for name in ("mean", "low", "high"))
            lines.append(f"{one['says']}: {mean} [{low}, {high}], n = {len(one['differences'])}")
        others = Counter(one["verdict"] for one in decisions if one not in rows)
        lines += [f"{count} others {verdict}" for verdict, count in others.items()]
        cells.append([claim["id"], claim["sentence"], f"**{claim['verdict']}**", "<br>".join(lines)])
    ended = {row[0] for row in cells}
    left = ", ".join(id for id in claim_ids() if id not in ended)
    table = markdown(["claim", "sentence", "verdict", "differences, mean [95 % interval]"], cells)
    return f"{table}\n\nNot run to the end at this scale: {left}." if left else table


def readme(text: str, results: dict[str, Any]) -> str:
    """The text of README.md with the present table."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md: expected the lines {BEGIN} and {END}; put them back")
    return f"{before}{BEGIN}\n{summary(results)}\n{END}{after}"


def accuracies(results: dict[str, Any]) -> str:
    """A row for each rule and network of the claims' figures that are about accuracy; claims share trainings.

    Figures of trials are left out.
    """
    of: dict[tuple[str, ...], list[str]] = {}
    for claim in results["claims"]:
        for line in claim["lines"] if claim["value"] == "accuracy" and claim["over"] != "trial" else ():
            for label, mean, half, n in zip(line["labels"], line["mean"], line["half"], line["n"], strict=True):
                spread = "" if half is None else f" ± {100 * half:.2f}"
                row = (label, f"`{line['name']}`", f"{100 * mean:.2f}{spread}", str(n))
                of.setdefault(row, []).append(claim["id"])
    cells = sorted([", ".join(claims), *row] for row, claims in of.items())
    return markdown(["claims", "network", "rule", "accuracy, %, 95 % interval", "n"], cells)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("folder", type=Path, help="of --out of backroads reproduce run")
    parse.add_argument("--out", type=Path, default=RESULTS / "claims.json")
    given = parse.parse_args()
    results, known = collected(given.folder), set[str]()
    if given.out.exists():
        old = json.loads(given.out.read_text(encoding="utf-8"))
        results, known = added(results, old), set(old.get("trainings", {}))
    print(verdicts(results), accuracies(results), sep="\n\n")
    print(f"{len(set(results['trainings']) - known)} trainings have come to {given.out}")
    write_json(given.out, results)
    README.write_text(readme(README.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
