"""Where a run computes: its device, and its processes if ``torchrun`` started several."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # once there is a group, its import would keep it, as a default
from torch import Tensor

from backroads.errors import BackroadsError, ConfigError


@dataclasses.dataclass
class Runtime:
    """This process among the processes of a run.

    Attributes:
        device: where it computes. rank, world: its number, and how many processes there are.
        control: a process group on the CPU for small messages; None with one process.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    control: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Sums over processes, in float64."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return [float(value) for value in tensor]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Put the sum over processes into each tensor, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all get the same answer."""
        return self.sum(float(flag))[0] > 0

    def gathered(self, values: list[float]) -> list[list[float]]:
        """Every process's values, in all of them."""
        if self.world == 1:
            return [values]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, values, group=self.control)
        return found

    def shared(self, value: Any) -> Any:
        """The first process's value, in every process: a number, text, list or dict of these."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def led(self, act: Callable[[], Any]) -> Any:
        """What ``act`` returns in the first process, the only one that calls it: as for :meth:`shared`.

        Raises:
            BackroadsError: what it raised there, in every process, so that none waits for the others.
        """
        value: Any = None
        error: BackroadsError | None = None
        if self.leads:
            try:
                value = act()
            except BackroadsError as raised:
                error = raised
        value, error = self.shared((value, error))
        if error is not None:
            raise error
        return value

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def synchronize(self) -> None:
        """Wait until the device has done its work, for measurements of time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def memory_mb(self) -> float:
        """Peak memory in MiB: of the GPU, or of the process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def joined(device: str = "auto", *, threads: int | None = None, deterministic: bool = False) -> Iterator[Runtime]:
    """Set torch up, join the other processes that torchrun started, and leave them at the end.

    Args:
        device: as for :func:`find_device`. threads: of the CPU; None leaves torch's choice.
        deterministic: whether torch may use deterministic algorithms only.

    Raises:
        ConfigError: for a device that cannot be used.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    found = find_device(device, local)
    if threads is not None:
        torch.set_num_threads(threads)
    if found.type == "cpu":
        keep_freed_memory()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    runtime = Runtime(found, rank, world)
    if world > 1:
        if found.type == "cuda":
            torch.cuda.set_device(found)
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
        runtime.control = dist.new_group(backend="gloo")
    try:
        yield runtime
    finally:
        if deterministic:
            torch.use_deterministic_algorithms(False)
        if world > 1:
            # gloo's threads end with the last reference to their group. One that is still there when Python ends, and
            # frees a tensor then, aborts the process.
            runtime.control = None
            gc.collect()
            dist.destroy_process_group()


def keep_freed_memory() -> None:
    """Let the C library keep large blocks that are freed, for the next step, in place of giving them back.

    glibc maps blocks of some MiB anew each time they are asked for, and the system then clears them page by page: a
    twentieth of a training of ResNet-8 at batch 128 on a CPU. Nothing happens under another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for parameter, value in (
        (-3, 2**30),
        (-1, 2**31 - 1),
        (-2, 2**26),
    ):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
        mallopt(parameter, value)


def find_device(name: str, local: int = 0) -> torch.device:
    """The device called ``name``: cpu, cuda, cuda:1, mps, or auto for a GPU if there is one, else the CPU.

    Args:
        local: number of this process on this machine, which is the number of its GPU.

    Raises:
        ConfigError: for a device that cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local)
        torch.ones(1, device=device).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        why = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(f"device: {name!r} cannot be used here: {why}; `backroads doctor` lists what can") from None
    return device


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that another process of the run went away."""
    text = str(error)
    return any(word in text.lower() for word in ("gloo", "nccl")) or "Connection" in text or "Socket" in text
