"""``backroads doctor``: what this machine offers, and how to get the rest."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

# Module -> its extra, and what needs it.
_EXTRAS = {
    "matplotlib": ("report", "reports"),
    "optuna": ("search", "searches"),
    "torchvision": ("vision", "MNIST, CIFAR, ImageNet; torchvision:NAME models; image folders"),
    "PIL": ("vision", "image folders"),
    "timm": ("timm", "timm:NAME models"),
    "tensorboard": ("tensorboard", "--log tensorboard"),
    "wandb": ("wandb", "--log wandb"),
    "mlflow": ("mlflow", "--log mlflow"),
    "psycopg": ("postgresql", "searches on PostgreSQL"),
}


def doctor() -> None:
    """Versions, devices, and which optional parts work."""
    import torch

    from backroads import __version__

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
    for module, (extra, use) in _EXTRAS.items():
        print(_state(module, extra, use))


def _state(module: str, extra: str, use: str) -> str:
    """One line on an optional package, after importing it in a process of its own; what to do if that fails."""
    code = f"import {module}; print({module}.__version__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return f"{module} {done.stdout.split()[-1]}: works"
    error = (done.stderr.strip() or f"ended with status {done.returncode}").splitlines()[-1]
    if f"No module named '{module}'" in error:
        return f'{module}: not installed ({use}); get it with: pip install "backroads[{extra}]"'
    if "operator torchvision::" in error:
        return (
            f"{module}: works in backroads, but not by itself ({error}): torchvision was built for another build of "
            f"torch; get both of one build with: pip install --force-reinstall torch torchvision --index-url "
            f"https://download.pytorch.org/whl/cpu (or /cu130, ...)"
        )
    return f'{module}: does not work ({error}); get it anew with: pip install --force-reinstall "backroads[{extra}]"'


def _has_backend(name: str) -> bool:
    import torch.distributed as dist

    return bool(getattr(dist, f"is_{name}_available")())
