"""The device that each process computes on, and its number of threads."""

import os

import torch

from mvsent.config import TrainSettings
from mvsent.errors import UsageError
from mvsent.workers.ranks import Ranks

_PROCESSES_PER_CORE = 4  # more only compete for memory


def compute_device(name: str) -> torch.device:
    """The device called `name`: cpu, cuda, cuda:N, or `auto` for the first CUDA device, else the CPU.

    Raises: UsageError if this machine does not have it.
    """
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cuda"] * bool(n_cuda) + [f"cuda:{i}" for i in range(n_cuda)] + ["cpu"]
    if name == "auto":
        return torch.device(here[0])
    if name not in here:
        raise UsageError(f"--device: there is no {name!r} here", f"Choose from: auto, {', '.join(here)}")
    return torch.device(name)


def check_devices(settings: TrainSettings) -> None:
    """Raises: UsageError if this machine has fewer devices than `settings` ask for, or not the one named."""
    who = f"--devices {settings.devices}"
    _check(settings.device, settings.devices, who)
    cores = os.cpu_count() or 1
    if compute_device(settings.device).type == "cpu" and settings.devices > _PROCESSES_PER_CORE * cores:
        few = f"Give --devices {cores}, one process per core"
        raise UsageError(f"{who}: more than {_PROCESSES_PER_CORE} processes per core of this machine", few)


def check_ranks(n_ranks: int, n_rows: int) -> None:
    """Raises: UsageError if a step has fewer rows than there are ranks."""
    if n_rows < n_ranks:
        raise UsageError(
            f"{n_ranks} ranks are more than the {n_rows} rows of a step",
            "Give fewer --devices, or a larger --batch-size",
        )


def rank_device(name: str, ranks: Ranks) -> torch.device:
    """Make the device called `name` CUDA's current one, and return it; several ranks have one device each.

    Raises: UsageError if this machine does not have it, or too few.
    """
    if ranks.world > 1:
        _check(name, ranks.local_world, f"{ranks.local_world} ranks on this machine")
    device = compute_device(name)
    if device.type == "cpu":
        return device
    own = torch.device("cuda", ranks.local_rank if device.index is None else device.index)
    torch.cuda.set_device(own)  # else pinned memory would take some of the first GPU's
    return own


def described(device: torch.device, ranks: Ranks, n_folds: int, threads: int) -> str:
    """Describe what computes, for the log; `n_folds` are trained at a time.

    >>> described(torch.device("cpu"), Ranks(0, 2), 1, 4)
    'training in 2 ranks over gloo, the first on the CPU (4 threads)'
    """
    if device.type == "cpu":
        over, place = "gloo", f"the CPU ({threads} thread{'s' * (threads > 1)})"
    else:
        over, place = "nccl", f"cuda:{device.index or 0} ({torch.cuda.get_device_name(device)})"
    if ranks.world > 1:
        return f"training in {ranks.world} ranks over {over}, the first on {place}"
    return (
        f"training {n_folds} folds at a time, the first on {place}" if n_folds > 1 else f"training on {place}"
    )


def threads_each(settings: TrainSettings, n_processes: int) -> int:
    """Threads of torch in each of `n_processes` on this machine."""
    return settings.threads or max(1, (os.cpu_count() or 1) // n_processes)


def _check(name: str, n: int, who: str) -> None:
    device = compute_device(name)
    if device.type == "cpu" or n == 1:
        return
    if ":" in name:
        raise UsageError(f"--device {name}: one device for {who}", "Give --device cuda, or leave it out")
    if (n_gpus := torch.cuda.device_count()) < n:
        few = f"Give --devices {n_gpus}, or --device cpu"
        raise UsageError(f"{who}: there {'is' if n_gpus == 1 else 'are'} {n_gpus} on CUDA here", few)
