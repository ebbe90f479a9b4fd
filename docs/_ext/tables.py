"""Tables of what ``benchmarks`` measured, with where the numbers come from."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def table_of(name: str, *arguments: Any, file: str = "", function: str = "table") -> str:
    """What a function of a benchmark makes of its results, by default those of the same name."""
    table: Callable[..., str] = runpy.run_path(str(BENCHMARKS / f"{name}.py"))[function]
    return table(results(file or name), *arguments)


def results(name: str) -> Any:
    """The file of a benchmark."""
    return json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())


def source(command: str, where: dict[str, Any], *commits: str) -> str:
    """A line below a table."""
    shown = ", ".join(sorted({commit[:7] for commit in commits or (where["commit"] or "unknown",)}))
    threads = "one thread" if where["threads"] == 1 else f"{where['threads']} threads"
    machine = where["cpu"] if where.get("device", "cpu") == "cpu" else where["device"]
    return f"`{command}`: {machine}, {threads}, torch {where['torch']}, commit {shown}."


def sources(found: dict[str, Any]) -> list[str]:
    """Lines below the tables of a campaign, one for each machine."""
    return [
        source(f"backroads reproduce run {' '.join(one['claims'])} --scale {found['scale']}", one, *one["commits"])
        for one in found["machines"]
    ]


def source_of(found: dict[str, Any]) -> str:
    """A line below the table of a grid."""
    commits = runpy.run_path(str(BENCHMARKS / "grid.py"))["commits_of"](found)
    return source(found["command"], found["environment"], *commits)


def step_time() -> str:
    """The tables of ``benchmarks/step_time.py`` and what they were measured on."""
    table = runpy.run_path(str(BENCHMARKS / "step_time.py"))["table"]
    parts = []
    for file in sorted((BENCHMARKS / "results").glob("step_time*.json")):
        for result in json.loads(file.read_text()).values():
            where = result["environment"]
            parts.append(table(result["rows"]))
            parts.append(
                f"`{where['command']}`: {where['device'] if where['device'] != 'cpu' else where['cpu']}, "
                f"{where['threads']} threads, {result['bandwidth_bytes_per_second'] / 1e9:.1f} GB/s, torch "
                f"{where['torch']}, Python {where['python']}, commit {(where['commit'] or 'unknown')[:7]}."
            )
    return "\n\n".join(parts)


def lifetime_speed(file: str = "lifetime_speed") -> str:
    """What part of a large product's speed lifetimes reach, from ``benchmarks/lifetime_speed.py``; of one machine."""
    where = results(file)["environment"]
    return f"{table_of('lifetime_speed', file=file)}\n\n{source('python benchmarks/' + where['command'], where)}"


def front_speed() -> str:
    """Images a second through the convolutions before lifetimes, from the same."""
    return table_of("lifetime_speed", function="front_table")


def descent_speed() -> str:
    """What writing out the meta-gradient of OML is worth, from the same."""
    return table_of("lifetime_speed", function="descent_line")


def cifar10(rule: str = "") -> str:
    """Accuracies of one rule and its variants, or of all, from ``benchmarks/cifar10.py``."""
    table = runpy.run_path(str(BENCHMARKS / "cifar10.py"))["table"]
    wanted = ("backprop", rule)
    arms = [arm for arm in results("cifar10_resnet8")["arms"] if not rule or arm["labels"]["rule"] in wanted]
    return str(table({"arms": arms}))


def meta_learning(task: str = "") -> str:
    """What meta-trained learners do on unseen tasks, from ``benchmarks/meta_learning.py``."""
    found = results("meta_learning")
    return "\n\n".join([table_of("meta_learning", task), *sources(found)])


def grid(what: str) -> str:
    """The table of a grid of ``benchmarks``.

    Args:
        what: ``SCRIPT``, ``SCRIPT FILE`` or ``SCRIPT FILE FUNCTION``; by default the results of the script's name, and
            its function ``table``.
    """
    script, file, function = [*what.split(), "", ""][:3]
    table = table_of(script, file=file, function=function or "table")
    return f"{table}\n\n{source_of(results(file or script))}"


def reproduced_summary() -> str:
    """A row for each claim that was run to its end, as in the README."""
    return table_of("claims", function="summary")


def reproduced() -> str:
    """Verdicts and accuracies of the claims that were run, from ``benchmarks/claims.py``."""
    script = runpy.run_path(str(BENCHMARKS / "claims.py"))
    found = results("claims")
    return "\n\n".join([script["verdicts"](found), script["accuracies"](found), *sources(found)])


def leaderboard(what: str) -> str:
    """``TASK``, ``cost``, ``cards`` or ``published`` of ``benchmarks/leaderboard.py``."""
    script = runpy.run_path(str(BENCHMARKS / "leaderboard.py"))
    if what in ("cards", "published"):
        return str(script[what]())
    found = results(f"leaderboard_{what}")
    if what == "cost":
        return f"{script['cost_table'](found)}\n\n{source(found['command'], found['environment'])}"
    return f"{script['table'](found)}\n\n{source_of(found)}"


def leaderboard_top(task: str) -> str:
    """The first ten rows of a leaderboard."""
    script = runpy.run_path(str(BENCHMARKS / "leaderboard.py"))
    return "\n".join(script["table"](results(f"leaderboard_{task}")).splitlines()[:12])


# What is needed -> the rule or method to take and its page.
CHOICES = (
    ("The accuracy of backpropagation for little, and $W$ may be read", "symmetric_alignment", "rules"),
    ("One bit of each weight may be sent, and $B$ must not learn", "sign_symmetry", "rules"),
    ("Nothing reads $W$; increments can be shared; noise may drive the layers", "mirrored_kolen_pollack", "rules"),
    ("Nothing reads $W$; increments can be shared; there is no noise", "kolen_pollack", "rules"),
    ("Nothing reads $W$; no increments are shared; noise may drive the layers", "white_noise_mirror", "rules"),
    ("Nothing reads $W$; there are only the activities of the task", "information_alignment", "rules"),
    ("$B$ must neither learn nor know of $W$", "feedback_alignment", "rules"),
    ("No two units are connected in both directions", "product_feedback_alignment", "rules"),
    ("Errors skip the layers; feedback learns", "direct_kolen_pollack", "rules"),
    ("Errors skip the layers; feedback is fixed", "direct_feedback_alignment", "rules"),
    ("Only labels are sent back, and no layer waits for others", "direct_random_target_projection", "rules"),
    ("Nothing is sent back; each block has a loss of its own", "mono_forward", "methods"),
    ("Targets are sent back, not errors", "target_propagation", "methods"),
    ("The physics settles, and the difference of two equilibria teaches", "equilibrium_propagation", "methods"),
    ("Units hold two states, whose difference is the error", "dual_propagation", "methods"),
    ("Bursts carry errors along the axons that carry events", "burstprop", "methods"),
    ("One number for all units, from noise", "node_perturbation", "methods/perturbation"),
    ("One number for all units, a reward", "three_factor", "methods"),
    ("No error at all: layers learn without labels", "softhebb", "methods"),
)


def choices(task: str) -> str:
    """What to take for which need, with the gap to backpropagation on a leaderboard and the cost of a step."""
    script = runpy.run_path(str(BENCHMARKS / "leaderboard.py"))
    rows = {row["name"]: row for row in script["rows_of"](results(f"leaderboard_{task}"))}
    cost = {row["rule"]: f"{row['ratio']:.1f}" for row in results("leaderboard_cost")["rows"]}
    baseline = rows["backprop"]["accuracy_mean"]
    lines = ["| what you need | take | points to backpropagation | step / backpropagation's |", "|---|---|---|---|"]
    for need, name, folder in CHOICES:
        page = f"{folder}/{name}" if "/" not in folder else folder
        accuracy = rows[name]["accuracy_mean"] if name in rows else None
        gap = "-" if accuracy is None else f"{100 * (accuracy - baseline):+.1f}"
        lines.append(f"| {need} | [`{name}`]({page}.md) | {gap} | {cost.get(name, '-')} |")
    return "\n".join(lines)


def spiking(part: str) -> str:
    """One part of ``benchmarks/spiking.py``."""
    where = results("spiking")[part]["environment"]
    return f"{table_of('spiking', part)}\n\n{source('python benchmarks/' + where['command'], where)}"


def receptive_fields() -> str:
    """Measures of fields, from ``benchmarks/receptive_fields.py``."""
    return _with_source("receptive_fields")


def linsker() -> str:
    """Shapes of cells, from ``benchmarks/linsker.py``."""
    return _with_source("linsker")


def softhebb(part: str) -> str:
    """Accuracies on one data set, from ``benchmarks/softhebb.py``."""
    where = results("softhebb")[part]["environment"]
    return f"{table_of('softhebb', part)}\n\n{source('python benchmarks/' + where['command'], where)}"


def _with_source(name: str) -> str:
    where = results(name)["environment"]
    return f"{table_of(name)}\n\n{source('python benchmarks/' + where['command'], where)}"


def cross_function(part: str) -> str:
    """Errors of RFWR and LWPR, "reference" or "sizes", from ``benchmarks/cross_function.py``."""
    return f"{table_of('cross_function', part)}\n\n{source_of(results('cross_function'))}"
