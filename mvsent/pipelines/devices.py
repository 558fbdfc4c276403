"""Which device each of several processes computes on, and with how many threads."""

import os

import torch

from mvsent.config import TrainSettings
from mvsent.errors import UsageError
from mvsent.learn.distributed import Ranks
from mvsent.pipelines.inputs import compute_device


def check_devices(settings: TrainSettings) -> None:
    """Raises: UsageError where this machine has not as many devices as asked for, or the asked one."""
    _check(settings.device, settings.devices, f"--devices {settings.devices}")


def rank_device(name: str, ranks: Ranks) -> torch.device:
    """The device called `name`; of several ranks on CUDA, each has one of its own.

    Raises: UsageError for one that is not here.
    """
    if ranks.world == 1:
        return compute_device(name)
    _check(name, ranks.local_world, f"{ranks.local_world} ranks on this machine")
    device = compute_device(name)
    if device.type == "cpu":
        return device
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def threads_each(settings: TrainSettings, n_processes: int) -> int:
    """The threads of torch in each of `n_processes` on this machine."""
    return settings.threads or max(1, (os.cpu_count() or 1) // n_processes)


def _check(name: str, n: int, who: str) -> None:
    device = compute_device(name)
    if device.type == "cpu" or n == 1:
        return
    if ":" in name:
        raise UsageError(f"--device {name}: is one device, for {who}", "Give --device cuda, or leave it out")
    if (n_gpus := torch.cuda.device_count()) < n:
        few = f"Give --devices {n_gpus}, or --device cpu"
        raise UsageError(f"{who}: there {'is' if n_gpus == 1 else 'are'} {n_gpus} on CUDA here", few)
