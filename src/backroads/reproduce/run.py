"""Runs the trainings of a campaign, by the trainer and the run folders of everything else, and gathers what came."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter

from backroads.errors import BackroadsError, ConfigError
from backroads.plasticity.settings import MetaConfig
from backroads.reproduce.arms import Arm, Campaign, arms_of, unique
from backroads.reproduce.claims import claim_ids, load_claim
from backroads.reproduce.outcome import known_beside
from backroads.reproduce.storage import exchange, taken
from backroads.reproduce.verdict import decide, is_decisive, lines, verdict_of
from backroads.runs.environment import environment
from backroads.runs.files import folder_within, free_name, make_folder, write_atomically, write_json
from backroads.runs.folder import CONFIG, ENVIRONMENT, RESULTS
from backroads.runs.lock import InUseError, locked
from backroads.runs.pool import in_processes
from backroads.runs.progress import Progress, Report
from backroads.runs.schema import Stopped
from backroads.runs.settings import read_toml
from backroads.runs.signals import Stopper
from backroads.runs.verdicts import ClaimResult, Reproduction, Trained, Verdict

NAMES = ("scale", "claims", "seeds", "data")
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)  # of gradient descent in lifetimes, for weights from plain training
VALIDATED = 40  # lifetimes on which they are compared
_RESULTS = TypeAdapter(Reproduction)
IDLE = 2.0  # seconds between looks, while other processes have all that is left


class Interrupted(Exception):
    """A signal ended a training before its time; ``signal`` is its number."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def begin(campaign: Campaign, out: Path, *, resume: bool) -> None:
    """Make the folder of a campaign, or go on in it; claims add up.

    Args:
        campaign: what is going to run. out: the folder. resume: whether a campaign may be there.

    Raises:
        ConfigError: there is something in the folder that this campaign cannot go on with; nothing was changed.
        RunError: the folder cannot be written into.
    """
    settings = settings_of(campaign)
    make_folder(out)
    with locked(out, patience=30.0):  # several that begin at the same time take turns
        if (out / CONFIG).exists():
            old = read_toml(out / CONFIG)
            if not resume:
                raise ConfigError(f"out: {out} has a campaign already; go on with --resume, or choose another folder")
            # Places may be added: trainings whose data lie nowhere have not begun.
            known = {name: place for name, place in settings["data"].items() if name in old.get("data", {})}
            for name, now in (("scale", settings["scale"]), ("seeds", settings["seeds"]), ("data", known)):
                if old.get(name) != now:
                    raise ConfigError(
                        f"resume: {name}: the folder has {old.get(name)!r}, now {settings[name]!r}; "
                        "give the same, or another --out"
                    )
            both = {*old.get("claims", []), *settings["claims"]}
            settings["claims"] = [id for id in claim_ids() if id in both]
        elif any(path.name != "run.lock" for path in out.iterdir()):
            raise ConfigError(f"out: {out} exists and is not empty; choose another folder, nothing was overwritten")
        else:
            write_json(out / ENVIRONMENT, environment())
        write_atomically(out / CONFIG, tomli_w.dumps(settings))


def known_in(file: Path) -> dict[str, Trained]:
    """What came of the trainings of another campaign, by the names of their folders.

    Args:
        file: its results.json.

    Raises:
        ConfigError: the file cannot be read, or is no such file.
    """
    try:
        return _RESULTS.validate_json(file.read_bytes(), strict=True).trainings
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"known: expected results.json of a campaign, got {file}: {str(error).splitlines()[0]}"
        ) from None


def add_known(known: dict[str, Trained], out: Path) -> None:
    """Note in the folder of a campaign what came of trainings elsewhere; those that ended in the folder itself stay."""
    folder = folder_within(out, "runs")
    folder.mkdir(exist_ok=True)
    for name, trained in known.items():
        write_json(known_beside(folder / name), trained)


def settings_of(campaign: Campaign) -> dict[str, Any]:
    """A campaign as plain data."""
    ids = [claim.id for claim in campaign.claims]
    return {"scale": campaign.scale, "claims": ids, "seeds": list(campaign.seeds), "data": dict(campaign.data)}


def campaign_in(out: Path) -> Campaign:
    """The campaign of a folder; raises ConfigError if it has none."""
    if not (out / CONFIG).is_file():
        raise ConfigError(f"expected the folder of a campaign, and {out} has no {CONFIG}; give the folder of --out")
    found = read_toml(out / CONFIG)
    try:
        scale, ids, seeds, data = (found[name] for name in NAMES)
        data = {str(name): str(place) for name, place in data.items()}
        return Campaign(tuple(load_claim(str(id)) for id in ids), scale, tuple(map(int, seeds)), data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{out / CONFIG}: expected {', '.join(NAMES)} of a campaign ({error}); put it back") from None


def run(
    campaign: Campaign,
    out: Path,
    report: Report,
    *,
    jobs: int = 1,
    without: Collection[str] = (),
    storage: str | None = None,
) -> list[str]:
    """Run all trainings that have not ended, and those that the trials choose as soon as all trials have ended.

    Several processes may do so at the same time, in a folder they share or through a storage: each takes what no other
    has in hand, and leaves when nothing is left to take; while trials run, it waits for what they choose.

    Args:
        campaign: begun in ``out``. report: called with a line when a training ends; where they are run one at a time,
            also when one begins, and with its steps.
        jobs: trainings at a time. without: names of data whose trainings are left out.
        storage: URL of a database, as :func:`backroads.reproduce.storage.checked` returned it.

    Returns:
        What is wrong with trainings that could not run.

    Raises:
        Interrupted: by a signal; the same call goes on. RunError: the storage does not answer.
    """
    tried: set[str] = set()
    problems: list[str] = []
    waiting, planned = False, sum(len(arms_of(claim, campaign)) for claim in campaign.claims)
    while True:
        known = [arm for claim in campaign.claims for arm in arms_of(claim, campaign, out)]
        arms = [arm for arm in unique(known) if arm.data not in without]
        if storage is not None:
            exchange(storage, arms, out)
        todo = [arm for arm in arms if arm.identity not in tried and not arm.outcome(out).done]
        if not todo:
            return problems
        before, busy = len(tried), False
        for number, (arm, problem) in enumerate(_performed(todo, out, jobs, report, storage), 1):
            if problem is None:
                busy = True
                continue
            tried.add(arm.identity)
            problems += [f"{arm.name}: {problem}"] if problem else []
            line = f"[{number}/{len(todo)}] {arm.name}: {problem or arm.outcome(out).status}"
            report(Progress(number, len(todo), line))
        if not busy or len(tried) > before:
            continue
        if len(known) == planned:  # other processes have all that is left
            says = f"{out / 'runs'}/*.lock says which" if storage is None else "the database has their locks"
            report(Progress(0, len(todo), f"{len(todo)} trainings are in the hands of other processes; {says}"))
            return problems
        if not waiting:
            report(Progress(0, len(todo), "waiting for trials of other processes, to train what they choose"))
        waiting = True
        time.sleep(IDLE)


def _performed(
    todo: Sequence[Arm], out: Path, jobs: int, report: Report, storage: str | None
) -> Iterator[tuple[Arm, str | None]]:
    """Trainings that have ended, and what is wrong with them; None of those that other processes have in hand."""
    if jobs == 1:
        for number, arm in enumerate(todo, 1):
            if arm.outcome(out).done:  # by another process meanwhile
                continue
            report(Progress(number - 1, len(todo), f"[{number}/{len(todo)}] {arm.name}"))
            end = perform(arm, out, storage, lambda steps: report(replace(steps, line=None)))
            if isinstance(end, int):
                raise Interrupted(end)
            yield arm, end
        return
    # At SIGTERM a process saves a checkpoint and leaves.
    yield from in_processes(jobs, _perform_in_pool, [(arm, (arm, out, storage)) for arm in todo])


def _perform_in_pool(arm: Arm, out: Path, storage: str | None) -> str | None:
    end = perform(arm, out, storage)
    if isinstance(end, int):  # at once: a process that goes on to wait for its next training is never joined
        os._exit(128 + end)
    return end


def _silent(progress: Progress) -> None:
    """What is said of single trainings is in their run folders."""


def perform(arm: Arm, out: Path, storage: str | None = None, report: Report = _silent) -> str | int | None:
    """Run one training to its end, unless another process did meanwhile.

    Args:
        arm: the training. out: the folder of its campaign. storage: as in :func:`run`. report: called with its steps.

    Returns:
        What is wrong with it (empty: nothing), the signal that ended it, or None: another process has it in hand.
    """
    folder = out / arm.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(folder.parent, name=f"{folder.name}.lock"))
            if storage is not None:
                stack.enter_context(taken(storage, arm))
                exchange(storage, [arm], out)
            now = arm.outcome(out)
            if now.done:
                return ""
            if now.status == "damaged":
                _set_aside(folder)
            end = _trained(arm, folder, report)
            if storage is not None and not end:
                exchange(storage, [arm], out)
            return end
    except InUseError:
        return None
    except BackroadsError as error:
        return str(error).partition("\n")[0]


def _trained(arm: Arm, folder: Path, report: Report) -> str | int:
    if isinstance(arm.config, MetaConfig):
        return _meta(arm, arm.config, folder, report)
    from backroads.train.trainer import train

    with Stopper() as stopper:  # a signal may come in the last step, which ends the campaign and not the training
        found = train(arm.config, folder, report, resume=True)
    return found.signal if isinstance(found, Stopped) else stopper() or ""


def unreadable(campaign: Campaign) -> dict[str, str]:
    """What is wrong with data of a campaign, by their names in the claims; each is read once."""
    found = {}
    for name, arm in {arm.data: arm for claim in campaign.claims for arm in arms_of(claim, campaign)}.items():
        try:
            if isinstance(arm.config, MetaConfig):
                from backroads.plasticity.tasks.load import load_tasks

                load_tasks(arm.config)
            else:
                from backroads.data.known import read_images

                data = arm.config.data
                read_images(data.name, data.split, None if data.root is None else Path(data.root), data.download)
        except BackroadsError as error:
            found[name] = str(error).partition("\n")[0]
    return found


def _set_aside(folder: Path) -> None:
    """Rename files of results of which one cannot be read: they are written again, from the last checkpoint."""
    inside = [folder / name for name in (RESULTS, "evaluation.json", "analysis.json")]
    for path in (*inside, known_beside(folder)):
        if path.is_file():
            path.rename(free_name(path.with_name(f"{path.name}.damaged")))


def _meta(arm: Arm, config: MetaConfig, folder: Path, report: Report) -> str | int:
    from backroads.plasticity.analysis import analyse
    from backroads.plasticity.evaluate import choose_rate, measure
    from backroads.plasticity.network import MetaNetwork
    from backroads.plasticity.trainer import load_run, meta_train
    from backroads.runs.results import MetaEvaluation

    with Stopper() as stopper:
        found = meta_train(config, folder, report, resume=True)
    if ended := found.signal if isinstance(found, Stopped) else stopper():
        return ended
    network, tasks, used = load_run(folder, "best")
    if config.meta.pretrain:  # what no meta-training has chosen
        choose_rate(network, tasks, RATES, VALIDATED)
    step = used.manifest.step
    n, batch = config.task.tasks, 8 if config.task.tasks <= 20 else 1
    lifetimes = measure(network, tasks, "test", arm.own.lifetimes, batch=batch).summary(step)
    write_json(folder / "evaluation.json", MetaEvaluation("test", step, {str(n): lifetimes}, None, environment()))
    if arm.own.analysed:
        untrained = MetaNetwork(network.config, tasks.shape)
        compared = analyse(network, untrained, tasks, "test", arm.own.analysed, step=step, environment=environment())
        write_json(folder / "analysis.json", compared)
    return ""


def gather(campaign: Campaign, out: Path) -> Reproduction:
    """All claims of a campaign, whose folder is ``out``, and what came of them so far."""
    found = []
    trainings: dict[str, Trained] = {}
    for claim in campaign.claims:
        arms = arms_of(claim, campaign, out)
        ended = [(arm, arm.outcome(out)) for arm in arms]
        for arm, end in ended:
            if end.status == "finished" or end.status == "diverged":
                trainings.setdefault(arm.folder.name, Trained(arm.name, end.status, end.values, end.problem))
        planned = arms_of(claim, campaign)
        once = list({arm.identity: end for arm, end in ended}.values())  # what several conditions share
        decided = decide(claim, ended)
        needed = sum(is_decisive(claim, arm) for arm in planned)
        complete = sum(end.done and is_decisive(claim, arm) for arm, end in ended) == needed
        verdict: Verdict = verdict_of(decided, complete=complete)
        if campaign.scale == "smoke" and verdict != "not run":
            verdict, decided = "not judged", tuple(replace(one, verdict="not judged") for one in decided)
        petaflop, hours = cost_of(planned)
        command = ["backroads", "reproduce", "run", claim.id, "--scale", campaign.scale, "--out", "FOLDER"]
        command += ["--seeds", *map(str, campaign.seeds)] if campaign.seeds else []
        found.append(
            ClaimResult(
                claim.id,
                claim.source,
                claim.sentence,
                claim.quantity,
                verdict,
                decided,
                shlex.join(command),
                over=claim.picture.over if claim.picture else "",
                ordered=claim.picture is not None and claim.picture.over in ("trial", *claim.places),
                value=claim.picture.value if claim.picture else "",
                lines=lines(claim, claim.picture, ended) if claim.picture else (),
                trainings=len(unique(planned)),
                done=sum(end.done for end in once),
                diverged=sum(end.status == "diverged" for end in once),
                known=sum(end.known for end in once),
                problems=tuple(f"{arm.name}: {end.problem}" for arm, end in ended if end.status == "damaged"),
                petaflop=petaflop,
                hours=hours,
                see=claim.see,
            )
        )
    return Reproduction("reproduce", campaign.scale, tuple(found), settings_of(campaign), trainings)


def cost_of(arms: Sequence[Arm]) -> tuple[float | None, float | None]:
    """Petaflop of some trainings, and hours on two CPU cores."""
    from backroads.reproduce import cost

    flop, hours = cost.flop_and_hours(unique(arms))
    return None if flop is None else flop / 1e15, hours


def write_results(campaign: Campaign, out: Path) -> Reproduction:
    """Gather, and write results.json; several parts may do so at the same time."""
    found = gather(campaign, out)
    write_json(out / RESULTS, found, indent=None)
    return found
