"""The place of this process among the ranks that train one network, and how they talk to each other.

torch.distributed is imported only if there are several ranks.
"""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mvsent.errors import LostRankError, UsageError, first_line
from mvsent.workers.interrupt import handled_by

T = TypeVar("T")

# The environment variables by which torchrun tells each process its place.
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# A rank may wait while another computes the features of a large dataset; a dead rank is noticed at once.
_TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train one network; by default it is the only one.

    Attributes:
        rank: its number, of `world`; only rank 0 writes files and logs.
        local_rank: its number on its machine, of `local_world`.
        group: the process group of everything but gradients, on the CPU and with a long timeout.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    group: Any = field(default=None, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files, logs and prints."""
        return self.rank == 0

    def share(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This rank's part of `rows`; the parts of all ranks, in order, are `rows`.

        Two parts differ by one row at most; with fewer rows than ranks some are empty.

        >>> [Ranks(rank, 2).share(np.arange(5)).tolist() for rank in (0, 1)]
        [[0, 1], [2, 3, 4]]
        """
        # Each step is divided, not the dataset: `--batch-size` then means the same for any number of ranks.
        n = len(rows)
        return rows[n * self.rank // self.world : n * (self.rank + 1) // self.world]

    def first_says(self, make: Callable[[], T]) -> T:
        """Call `make` in the first rank only; return its result in every rank."""
        if self.world == 1:
            return make()
        import torch.distributed as dist

        box: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(box, 0, group=self.group)
        value: T = box[0]
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def sums(self, *values: float) -> list[float]:
        """Each value, summed over the ranks."""
        if self.world == 1:
            return list(values)
        import torch.distributed as dist

        totals = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(totals, group=self.group)
        sums: list[float] = totals.tolist()
        return sums

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any rank has it set."""
        if self.world == 1:
            return list(flags)
        return [total > 0 for total in self.sums(*map(float, flags))]

    def in_turn(self, make: Callable[[], T]) -> T:
        """Call `make` in one rank of each machine, then in the others, which find its caches filled."""
        if self.world == 1:
            return make()
        if self.local_rank == 0:
            value = make()
        self.gather(None)
        if self.local_rank != 0:
            value = make()
        self.gather(None)
        return value

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Average the gradients of `objective` over the ranks; with one rank, return it as it is."""
        return objective if self.world == 1 else averaged(objective)


ALONE = Ranks()


def averaged(objective: nn.Module) -> nn.Module:
    """Average the gradients of `objective` over the ranks of torch's default process group."""
    from torch.nn.parallel import DistributedDataParallel

    # A head is unused in a step without rows of its label. Buffers are equal already: see `synced`.
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view")  # of 1×1 convolutions
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # torch 2.6 has no other
    return DistributedDataParallel(objective, find_unused_parameters=True, broadcast_buffers=False)


def under_launcher() -> bool:
    """Whether a launcher such as torchrun started this process.

    Raises: UsageError if only some of its variables are set.
    """
    told = [name for name in PLACE[:3] if os.environ.get(name)]
    missing = [name for name in PLACE if not os.environ.get(name)]
    if told and missing:
        raise UsageError(
            f"{told[0]} is set and {missing[0]} is not, although torchrun sets both",
            "Start with torchrun --nproc-per-node N -m mvsent train …, or unset it",
        )
    return bool(told)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks that a launcher started, within the block; `ALONE` without a launcher.

    Raises: UsageError for torchrun variables that are incomplete or not numbers; LostRankError if another
        rank has ended.
    """
    if not under_launcher():
        yield ALONE
        return
    try:
        rank, world, local_rank, local_world = (int(os.environ[name]) for name in PLACE[:4])
    except ValueError:
        told = " ".join(f"{name}={os.environ[name]}" for name in PLACE[:4])
        raise UsageError(f"{told}: these must be numbers, as torchrun sets them") from None
    if world == 1:
        yield ALONE
        return
    import torch.distributed as dist

    try:
        with handled_by(signal.SIG_DFL):  # while torch waits for the others, a Python handler never runs
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        yield Ranks(rank, world, local_rank, local_world, group)
        dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        reason = first_line(error)
        raise LostRankError(f"another rank has ended ({reason})", "See the messages of that rank") from error
