"""Real processes that train, to be killed: forked from a server that has torch imported, so that they start at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from patience import PATIENCE

_CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["backroads.train.trainer", "sklearn.datasets", "sklearn.model_selection"])


def start(settings: dict[str, Any], path: Path, *, resume: bool = True, world: int = 1) -> list[ForkServerProcess]:
    """One process a rank, training; exit status 0 at the end, 128 + signal after a signal, 1 for a failed run."""
    port = _free_port()
    started = []
    for rank in range(world):
        environment = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
        process = _CONTEXT.Process(target=_train, args=(settings, str(path), resume, environment))
        process.start()
        started.append(process)
    return started


def finish(settings: dict[str, Any], path: Path, *, resume: bool = True, world: int = 1) -> list[int | None]:
    """Train to the end; the exit statuses."""
    processes = start(settings, path, resume=resume, world=world)
    for process in processes:
        process.join(1200)
        if process.exitcode is None:
            for other in processes:
                other.kill()
            raise AssertionError("the run hangs")
    return [process.exitcode for process in processes]


def sent_bytes(rules: list[str], folder: Path) -> dict[str, int]:
    """Bytes of gradients that a step of data parallelism sums over processes, by rule of the table."""
    process = _CONTEXT.Process(target=_sent, args=(rules, str(folder)))
    process.start()
    process.join(600)
    process.kill()
    found: dict[str, int] = json.loads((folder / "sent").read_text())
    return found


def small_model(rule: Any) -> Any:
    """A convolution and a readout, converted."""
    import torch

    import backroads as br

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, bias=False), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 4 * 4, 3)
    )
    return br.convert(net, rule)


def _sent(rules: list[str], folder: str) -> None:
    import torch
    import torch.nn.functional as F
    from problems import RULES
    from torch.nn.parallel import DistributedDataParallel

    from backroads.train.runtime import local_gradients

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    sent = dict.fromkeys(rules, 0)
    for rule in rules:
        net = small_model(RULES[rule])
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, local_gradients(net))
        wrapped = DistributedDataParallel(net)

        def hook(rule, bucket):  # type: ignore[no-untyped-def]  # torch inspects annotations
            sent[rule] += bucket.buffer().nbytes
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        wrapped.register_comm_hook(rule, hook)
        F.cross_entropy(wrapped(torch.randn(5, 2, 6, 6)), torch.randint(3, (5,))).backward()
    (Path(folder) / "sent").write_text(json.dumps(sent))
    torch.distributed.destroy_process_group()


def _train(settings: dict[str, Any], path: str, resume: bool, environment: dict[str, int]) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()}, MASTER_ADDR="127.0.0.1")
    import torch

    from backroads.errors import BackroadsError
    from backroads.runs.schema import Stopped
    from backroads.train.arm import TrainingArm
    from backroads.train.comparison import resolve_comparison
    from backroads.train.settings import resolve
    from backroads.train.trainer import compare, train

    if (kill := settings.pop("kill", None)) is not None:
        _die_at(*kill)
    limit = settings.pop("largest_file", None)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    dump = settings.pop("dump", False)
    end = TrainingArm.result
    if dump:  # what each process ends with, not what the first one saves

        def dumping(self: TrainingArm, *args: Any) -> Any:
            torch.save(dict(self.model.state_dict()), Path(path).parent / f"rank-{self.runtime.rank}.pt")
            return end(self, *args)

        TrainingArm.result = dumping  # type: ignore[method-assign]
    torch.set_num_threads(1)
    errors = Path(path).parent / f"errors-{environment['RANK']}.txt"
    try:
        if "compare" in settings:
            results = compare(resolve_comparison(settings), Path(path), lambda _: None, resume=resume)
        else:
            results = train(resolve(settings), Path(path), lambda _: None, resume=resume)
    except BackroadsError as error:
        errors.write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)
    sys.stdout.flush()
    os._exit(128 + results.signal if isinstance(results, Stopped) else int(results.arms[0].status == "diverged"))


def _die_at(where: str, step: int) -> None:
    """Arrange that this process is killed at a place in step number ``step``, of the steps done by then."""
    from backroads.runs import checkpoint
    from backroads.train import arm
    from backroads.train.step import Stepper

    at = False  # whether the place is near

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def wrap(owner: Any, name: str, place: int, *, before: str = "", after: str = "") -> None:
        """Die before or after a call of ``owner.name``, whose argument number ``place`` is the step."""
        call = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal at
            outer, at = at, args[place] == step
            if at and where == before:
                die()
            result = call(*args, **kwargs)
            if args[place] == step and where == after:
                die()
            at = outer
            return result

        setattr(owner, name, wrapped)

    def within(owner: Any, name: str, here: str) -> None:
        """Die at the second call of ``owner.name`` near the place."""
        call, calls = getattr(owner, name), 0

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += at
            if at and where == here and calls == 2:
                die()
            return call(*args, **kwargs)

        setattr(owner, name, wrapped)

    wrap(arm.TrainingArm, "step", 1, before="before a step", after="after a step")
    wrap(Stepper, "update", 1, before="before an update", after="after an update")
    wrap(arm.TrainingArm, "log", 1, before="before a line", after="after a line")
    wrap(arm.TrainingArm, "evaluate", 1, after="after an evaluation")
    within(arm.F, "cross_entropy", "in an evaluation")
    wrap(checkpoint, "save", 1, before="before saving", after="after saving")
    within(checkpoint, "write_atomically", "in saving")
    within(os, "rename", "in the renaming of saving")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for_step(run: Path, step: int) -> None:
    """Until the log says that a step was taken."""
    events = run / "events.jsonl"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if events.exists():
            for line in events.read_text().splitlines():
                if line.endswith("}") and json.loads(line).get("step", 0) >= step:
                    return
        time.sleep(0.02)
    raise AssertionError("the run does not get there")
