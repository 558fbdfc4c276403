"""Several processes, ranks, that train one network: which rows each takes, and what they tell each other.

Every rank knows the rows of every step, and takes its share of them. The gradients are averaged by torch's
DistributedDataParallel; each rank's loss is scaled so that their average is the gradient of all the rows.

torch.distributed is imported where there are several ranks, and only there.
"""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mvsent.errors import MvsentError, UsageError
from mvsent.learn.batches import Rows
from mvsent.models.encoders import Standardize

T = TypeVar("T")

# What torchrun tells each process of its place.
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# A rank may wait for another that makes features of a large dataset; one that dies is noticed at once.
_PATIENCE = timedelta(days=7)


class LostRankError(MvsentError):
    """Another rank has ended, and this one cannot go on alone."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train one network; by default it is the only one.

    Attributes:
        rank: its number, of `world`; the first one alone writes and speaks.
        local_rank: its number on its machine, of `local_world`.
        talk: the process group of everything but gradients: on the CPU, and patient.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    talk: Any = field(default=None, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files, logs and prints."""
        return self.rank == 0

    def share(self, rows: Rows) -> Rows:
        """The part of `rows` that this rank takes: those of all ranks, one after the other, are `rows`.

        Two shares differ by one row at most; with fewer rows than ranks some are empty.

        >>> import numpy as np
        >>> [Ranks(rank, 2).share(np.arange(5)).tolist() for rank in (0, 1)]
        [[0, 1], [2, 3, 4]]
        """
        n = len(rows)
        return rows[n * self.rank // self.world : n * (self.rank + 1) // self.world]

    def first_says(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first rank; the others wait for it, and do not call theirs."""
        if self.world == 1:
            return make()
        import torch.distributed as dist

        told: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(told, 0, group=self.talk)
        value: T = told[0]
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        told: list[Any] = [None] * self.world
        dist.all_gather_object(told, value, group=self.talk)
        return told

    def sums(self, *values: float) -> list[float]:
        """Each value, added up over the ranks."""
        if self.world == 1:
            return list(values)
        import torch.distributed as dist

        totals = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(totals, group=self.talk)
        found: list[float] = totals.tolist()
        return found

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether a rank has it set."""
        if self.world == 1:
            return list(flags)
        return [total > 0 for total in self.sums(*map(float, flags))]

    def in_turn(self, make: Callable[[], T]) -> T:
        """What `make` returns; one rank of a machine calls it before the others, which find its caches."""
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
        """`objective`, whose gradients are averaged over the ranks; as it is where there is one."""
        if self.world == 1:
            return objective
        from torch.nn.parallel import DistributedDataParallel

        # A head whose labels no row of a step has is not used in it. Buffers are alike already: `synced`.
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view")  # of 1×1 convolutions
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its heir is not in torch 2.6
        return DistributedDataParallel(objective, find_unused_parameters=True, broadcast_buffers=False)


ALONE = Ranks()


@dataclass(frozen=True)
class Part:
    """What a rank's rows are of a step's: a loss that is a mean over the rank's rows is multiplied by it.

    Then the mean over the ranks is the mean over all rows.

    Attributes:
        loss: for the cross-entropy, where rows count by the weights of their classes.
        penalty: for everything else, where every row counts alike.
    """

    loss: float
    penalty: float

    @classmethod
    def of(cls, mine: Tensor, all_rows: Tensor, class_weights: Tensor | None, ranks: Ranks) -> "Part":
        """`mine` and `all_rows` are the targets of this rank's rows, and of all."""
        penalty = ranks.world * len(mine) / len(all_rows)
        if class_weights is None:
            return cls(penalty, penalty)
        weight, of_all = (float(class_weights[rows].double().sum()) for rows in (mine, all_rows))
        return cls(ranks.world * weight / of_all, penalty)


@dataclass
class Step:
    """How many rows of the step under way are this rank's, and how many there are; synced layers ask it."""

    mine: int = 0
    all: int = 0


class SyncedStandardize(Standardize):
    """`Standardize` whose mean and variance are those of all ranks' rows."""

    def __init__(self, of: Standardize, step: Step) -> None:
        super().__init__(of.num_features)
        self.load_state_dict(of.state_dict())
        self.step = step

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, n_inputs]` → `[B, n_inputs]`; a batch that stands for no row of this rank does not count."""
        n = self.step.all
        if not self.training or n < 2:
            return nn.functional.batch_norm(inputs, self.running_mean, self.running_var, eps=self.eps)
        counted = inputs.double() * (self.step.mine > 0)
        mean = _summed(counted.sum(dim=0)) / n
        apart = (inputs.double() - mean) * (self.step.mine > 0)
        variance = _summed(apart.square().sum(dim=0)) / n
        self._remember(mean.detach(), variance.detach() * n / (n - 1))
        standard: Tensor = (inputs.double() - mean) * (variance + self.eps).rsqrt()
        return standard.to(inputs.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(1)


def _summed(values: Tensor) -> Tensor:
    """`values` added up over the ranks; the gradient goes to all of them."""
    from torch.distributed.nn.functional import all_reduce

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        total: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return total


def synced(network: nn.Module, ranks: Ranks, step: Step) -> nn.Module:
    """`network`, whose layers that standardize by a batch do so by the rows of all ranks."""
    if ranks.world == 1:
        return network
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Standardize):
                setattr(parent, name, SyncedStandardize(child, step))
    return network


def under_launcher() -> bool:
    """Whether a launcher, as torchrun, started this process.

    Raises: UsageError where the environment says so by halves.
    """
    told = [name for name in PLACE[:3] if os.environ.get(name)]
    missing = [name for name in PLACE if not os.environ.get(name)]
    if told and missing:
        raise UsageError(
            f"{told[0]} is set and {missing[0]} is not: half of what torchrun sets",
            "Start with torchrun --nproc-per-node N -m mvsent train …, or unset it",
        )
    return bool(told)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Within the block, this process's place among the ranks that a launcher started; `ALONE` without one.

    Raises: UsageError as `under_launcher`, or where its numbers are none; LostRankError where the others
        are gone.
    """
    if not under_launcher():
        yield ALONE
        return
    try:
        rank, world, local_rank, local_world = (int(os.environ[name]) for name in PLACE[:4])
    except ValueError:
        told = " ".join(f"{name}={os.environ[name]}" for name in PLACE[:4])
        raise UsageError(f"{told}: these are numbers where torchrun sets them") from None
    if world == 1:
        yield ALONE
        return
    with _naming_lost_ranks():
        with _ended_by_ctrl_c():
            talk = _connect()
        yield Ranks(rank, world, local_rank, local_world, talk)
        _disconnect()


def _connect() -> Any:
    import torch.distributed as dist

    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Within the block Ctrl-C ends the process: where torch waits for the others, it would not be heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _disconnect() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


@contextmanager
def _naming_lost_ranks() -> Iterator[None]:
    """What torch says where another rank is gone becomes a LostRankError."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        reason = str(error).splitlines()[0]
        raise LostRankError(f"another rank has ended ({reason})", "See what that one says") from error
