"""Where a training runs: device, precision, process group. One process, or many that ``torchrun`` started."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from backroads.errors import ConfigError
from backroads.feedback.conversion import aligned_layers
from backroads.feedback.rules import Alignment
from backroads.train.settings import TrainConfig
from backroads.train.sync_batch_norm import convert_batch_norms


@dataclasses.dataclass
class Runtime:
    """This process among its peers.

    Attributes:
        device: where it computes. rank, world: its number, and how many there are. control: a group on the CPU for
            small agreements, None with one process.
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

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process; all learn the same."""
        return [value > 0 for value in self.sum(*map(float, flags))]

    def gathered(self, values: list[float]) -> list[list[float]]:
        """Every process's values, in all of them."""
        found: list[Any] = [None] * self.world
        if self.world == 1:
            return [values]
        dist.all_gather_object(found, values, group=self.control)
        return found

    def shared(self, value: Any) -> Any:
        """The leader's value, in every process: a number, text, list or dict of these."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def share_buffers(self, model: torch.nn.Module) -> None:
        """Give every process the leader's statistics of batch norms: those that are saved are those evaluated."""
        self.share(model.buffers())

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the leader's values."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def autocast(self, precision: str) -> Any:
        """The context of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    def wrap(self, model: torch.nn.Module, config: TrainConfig) -> Any:
        """The model as the loop calls it: under data parallelism and compiled, where asked for."""
        wrapped: Any = model
        if self.world > 1:
            # Each process makes these gradients from W and B alone: they are equal without being sent.
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, local_gradients(model))
            # Statistics are equal if they are synchronised; otherwise the leader's are shared before an evaluation.
            known = inspect.signature(DistributedDataParallel.__init__).parameters
            quiet = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            wrapped = DistributedDataParallel(
                model,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                **{quiet: False},  # type: ignore[arg-type]
            )
        return torch.compile(wrapped) if config.compile else wrapped


def local_gradients(model: torch.nn.Module) -> list[str]:
    """Names of the backward weights whose gradient depends on W and B alone: not on data, so not on the process."""
    names = []
    for name, layer in aligned_layers(model):
        rule, B = layer.rule, layer.backward_weight
        if B is None:
            continue
        by_data = isinstance(rule, Alignment) and (
            rule.tie_grad
            or rule.amp
            or rule.null
            or rule.sparse
            or (rule.estimate is not None and rule.estimate.draws)  # each process has draws of its own
        )
        # Other users of a shared parameter may be taught by data.
        if not by_data and not (isinstance(rule, Alignment) and rule.update_forward):
            names.append(f"{name}.backward_weight" if name else "backward_weight")
    return names


@contextlib.contextmanager
def runtime(config: TrainConfig) -> Iterator[Runtime]:
    """Set torch up as the settings say, join the other processes, and leave them at the end.

    Raises:
        ConfigError: for a device that is not there, or a batch that cannot be shared between the processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    parts = world * config.accumulate
    if config.batch_size % parts:
        raise ConfigError(
            f"batch_size: expected a multiple of {parts} ({world} processes, accumulate {config.accumulate}), "
            f"got {config.batch_size}; the next is {-(-config.batch_size // parts) * parts}"
        )
    device = find_device(config.device, local)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    here = Runtime(device, rank, world)
    if world > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        here.control = dist.new_group(backend="gloo")
    try:
        yield here
    finally:
        if config.deterministic:
            torch.use_deterministic_algorithms(False)
        if world > 1:
            dist.destroy_process_group()


def find_device(name: str, local: int = 0) -> torch.device:
    """The device of a setting, "auto" for what is there; raises ConfigError for one that is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}; `backroads doctor` lists what can"
        ) from None
    return device


def prepare(model: torch.nn.Module, config: TrainConfig, here: Runtime) -> torch.nn.Module:
    """Move the model to its device and memory layout, with synchronised batch norms where asked for."""
    if config.sync_batch_norm and here.world > 1:
        model = convert_batch_norms(model, here.device)
    model = model.to(here.device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def layout(x: Tensor, config: TrainConfig) -> Tensor:
    """The batch in the memory layout of the settings."""
    return x.to(memory_format=torch.channels_last) if config.channels_last and x.dim() == 4 else x


class Stopper:
    """Notes SIGTERM and SIGINT, so that the loop can save and leave; a second one ends the process at once.

    A cluster sends a signal to every process, and torchrun sends its own to the processes it started: there, a second
    one within ten seconds is the same one.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._patience = 10.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        self._noted = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopper:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # outside the main thread there are no signals
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._noted = number, now
        elif now - self._noted > self._patience:
            os._exit(128 + number)
