"""``backroads reproduce``: the claims of two papers, run as trainings, with a verdict for each."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number

from backroads.cli.progress import progress
from backroads.cli.shared import FAILED, INTERRUPTED, print_report
from backroads.errors import ConfigError, nearest
from backroads.reproduce.arms import Campaign, arms_of, unique
from backroads.reproduce.claims import Claim, Scale, claim_ids, load_claim
from backroads.runs.table import aligned
from backroads.runs.verdicts import Reproduction

app = cyclopts.App(
    name="reproduce",
    help="Run the claims of two papers, and say of each whether it was confirmed.",
    help_format="plaintext",
)

Scales = Annotated[
    Scale,
    Parameter(
        help="smoke: seconds, to see that all runs; desk: hours to days on two CPU cores; paper: the papers' own "
        "settings, days on GPUs."
    ),
]
POSITIVE = Number(gte=1)
PLACES = ("cifar10", "imagenette", "omniglot", "imagenet")  # data of the claims that lie somewhere


@app.command(name="list")
def list_(*, scale: Scales = "desk") -> None:
    """Print the claims, how many trainings each needs, and what they cost."""
    from backroads.reproduce.run import cost_of

    claims = _claims([])
    campaign = Campaign(claims, scale)
    lines = [("claim", "trainings", "PFLOP", "hours, 2 cores", "sentence")]
    found = {claim.id: arms_of(claim, campaign) for claim in claims}
    every = [arm for own in found.values() for arm in own]
    for name, arms, words in [*((c.id, found[c.id], c.sentence) for c in claims), ("all", every, "each training once")]:
        petaflop, hours = cost_of(arms)
        counted = ("-", "-") if petaflop is None or hours is None else (f"{petaflop:.3g}", f"{hours:.3g}")
        lines.append((name, str(len(unique(arms))), *counted, words))
    print(*aligned(lines), sep="\n")


@app.command
def run(
    claims: Annotated[list[str], Parameter(help="Claims by their ids, such as K5 L2, or all.")],
    /,
    *,
    scale: Scales,
    out: Annotated[Path, Parameter(help="Folder of the campaign.")],
    seeds: Annotated[list[int] | None, Parameter(help="In place of the seeds that stand in the claims.")] = None,
    data: Annotated[
        list[str] | None,
        Parameter(
            help="Where data lie, as NAME=PLACE: cifar10=ROOT, cifar10=folder:PATH, imagenette=folder:PATH, "
            "omniglot=ROOT, imagenet=ROOT."
        ),
    ] = None,
    resume: Annotated[bool, Parameter(help="Go on with the campaign in the folder; more claims may be added.")] = False,
    storage: Annotated[
        str | None,
        Parameter(
            help="postgresql://USER@HOST/DATABASE, through which machines without a common folder divide the "
            "trainings; each has its own --out."
        ),
    ] = None,
    known: Annotated[
        Path | None,
        Parameter(help="results.json of another campaign: its trainings are taken from there, and not run again."),
    ] = None,
    jobs: Annotated[int, Parameter(help="Trainings at a time.", validator=POSITIVE)] = 1,
    threads: Annotated[int | None, Parameter(help="CPU threads of each training.", validator=POSITIVE)] = None,
    device: Annotated[str, Parameter(help="Where to compute: cpu, cuda, cuda:1, mps, or auto.")] = "auto",
) -> None:
    """Run the trainings of claims, each once however many claims need it, and write results.json and report.html.

    What has ended is not run again, and what was interrupted goes on. Several processes may share a folder, each with
    --resume: as jobs of a cluster, or under torchrun. Each takes a training that no other has in hand.
    """
    chosen = _claims(claims)
    places = _places(data or [])
    if seeds is not None and (len(set(seeds)) != len(seeds) or min(seeds) < 0):
        raise ConfigError(f"seeds: expected different whole numbers >= 0, got {' '.join(map(str, seeds))}")
    # Under torchrun, each process trains by itself what no other has in hand.
    several = int(os.environ.pop("WORLD_SIZE", "1")) > 1
    os.environ.pop("RANK", None)
    machine: dict[str, Any] = {"device": device} | ({} if threads is None else {"threads": threads})
    campaign = Campaign(chosen, scale, tuple(seeds or ()), places, machine)
    for claim in chosen:
        arms_of(claim, campaign)  # says what is wrong with the settings

    # After the settings are known to be right: torch takes seconds to import.
    from backroads.reproduce.run import Interrupted, add_known, begin, campaign_in, known_in, unreadable, write_results
    from backroads.reproduce.run import run as run_all
    from backroads.reproduce.storage import checked

    wrong = unreadable(campaign)
    for name in wrong.keys() & places.keys():
        raise ConfigError(f"data: {name}: {wrong[name]}")
    elsewhere = {} if known is None else known_in(known)
    url = None if storage is None else checked(storage)
    begin(campaign, out, resume=resume or several)
    add_known(elsewhere, out)
    try:
        with progress() as report:
            problems = run_all(campaign, out, report, jobs=jobs, without=wrong, storage=url)
    except (Interrupted, KeyboardInterrupt) as stopped:
        number = getattr(stopped, "signal", 2)
        print(f"backroads: stopped by signal {number}; the same command with --resume goes on", file=sys.stderr)
        sys.exit(INTERRUPTED + number)
    problems += [f"what needs {name} was left out; give its place: --data {name}=PLACE" for name in wrong]
    for problem in problems:
        print(f"backroads: {problem}", file=sys.stderr)
    print(table(write_results(campaign_in(out), out)))
    print_report(out)
    if problems:
        sys.exit(FAILED)


@app.command
def report(folder: Annotated[Path, Parameter(help="Folder of the campaign.")], /) -> None:
    """Write FOLDER/results.json and FOLDER/report.html from what has been run so far."""
    from backroads.reproduce.run import campaign_in, write_results

    print(table(write_results(campaign_in(folder), folder)))
    print_report(folder)


def table(found: Reproduction) -> str:
    """Claims and verdicts as text."""
    lines = [("claim", "verdict", "trainings", "sentence")]
    for claim in found.claims:
        verdict = "undecided at this scale" if claim.verdict == "undecided" else claim.verdict
        lines.append((claim.id, verdict, f"{claim.done} of {claim.trainings}", claim.sentence))
    note = ["scale smoke: it shows that all runs, and nothing about the claims"] if found.scale == "smoke" else []
    return "\n".join([*aligned(lines), *note])


def _claims(ids: list[str]) -> tuple[Claim, ...]:
    """Claims by their ids, each once; all for none or "all"."""
    names = claim_ids() if not ids or ids == ["all"] else list(dict.fromkeys(ids))
    return tuple(load_claim(id) for id in names)


def _places(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not name or not equals or not place:
            raise ConfigError(f"data: expected NAME=PLACE, as in cifar10=folder:PATH, got {word!r}")
        if name not in PLACES:
            raise ConfigError(f"data: no claim needs {name!r}.{nearest(name, PLACES)} They need: {', '.join(PLACES)}")
        found[name] = place
    return found
