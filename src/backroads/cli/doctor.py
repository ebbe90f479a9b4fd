"""``backroads doctor``: what this machine offers, and how to get the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform

_EXTRAS = {
    "matplotlib": ("report", "reports"),
    "optuna": ("search", "searches"),
    "torchvision": ("vision", "MNIST, CIFAR, ImageNet; torchvision:NAME models; image folders"),
    "pillow": ("vision", "image folders"),
    "timm": ("timm", "timm:NAME models"),
    "tensorboard": ("tensorboard", "TensorBoard files"),
    "psycopg": ("postgresql", "searches on PostgreSQL"),
}


def doctor() -> None:
    """Versions, devices, and which optional parts work."""
    import torch

    from backroads import __version__
    from backroads.errors import MissingDependencyError

    print(f"backroads {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    print(platform.platform())
    print(f"cpu: {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    print(f"cpu capability: {torch.backends.cpu.get_cpu_capability()}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            print(f"cuda:{i}: {p.name}, {p.total_memory / 2**30:.0f} GiB, {bf16}")
    else:
        print(
            f"cuda: none (this torch is {'built for ' + torch.version.cuda if torch.version.cuda else 'a CPU build'})"
        )
    backends = [b for b in ("gloo", "nccl", "mpi") if torch.distributed.is_available() and _has_backend(b)]
    print(f"distributed: {', '.join(backends) or 'not built in'}")
    for package, (extra, use) in _EXTRAS.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f'{package}: not installed ({use}); get it with: pip install "backroads[{extra}]"')
            continue
        state = "works"
        if package == "torchvision":
            from backroads.extras import import_torchvision

            try:
                import_torchvision()
            except (MissingDependencyError, RuntimeError) as error:
                state = f"does not work: {error}"
        print(f"{package} {found}: {state}")


def _has_backend(name: str) -> bool:
    import torch.distributed as dist

    return bool(getattr(dist, f"is_{name}_available")())
