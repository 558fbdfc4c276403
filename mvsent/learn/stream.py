"""Rows streamed from the shards during training: shuffled in a buffer, read and decoded in advance.

    row groups, permuted → a shuffle buffer of row numbers → the steps of an epoch
                                                                 ↓ which groups, which rows, in which order
                     read ahead → rows kept until their step → decoded ahead → batches

The order is one of row numbers, for which no row is read. It is therefore the same for any number of
workers or ranks, and an epoch can be resumed at any step.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mvsent.learn.batches import Rows
from mvsent.models.batch import Batch

GROUPS_AHEAD = 4
"""Number of row groups that are being read, or have been read in advance."""

STEPS_AHEAD = 2
"""Number of steps whose rows are decoded in advance."""

Raw = TypeVar("Raw")
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Stream(Generic[Raw, Decoded]):
    """A `BatchSource` of rows in row groups, which are read shortly before their step.

    In memory are `buffer` rows and those of `GROUPS_AHEAD` groups, undecoded, and the batches of
    `STEPS_AHEAD` + 1 steps; more only for steps that `order` did not make.

    Attributes:
        target: `[N]` int64; see `BatchSource`.
        firsts: `[G]` int64, ascending from 0, the number of each group's first row.
        buffer: size of the shuffle buffer, at least 1; if it holds all rows, all orders are equally likely.
        read: reads the given rows of a group; called by many threads.
        decode: decodes a row; called by many threads.
        collate: makes the batch of a step's decoded rows; called by the consumer.
        workers: threads that decode; 0: one per core.
    """

    target: npt.NDArray[np.int64]
    firsts: Rows
    buffer: int
    read: Callable[[int, Rows], Mapping[int, Raw]]
    decode: Callable[[Raw], Decoded]
    collate: Callable[[Rows, Sequence[Decoded]], Batch]
    workers: int = 0

    def order(self, rows: Rows, *, seed: int, fold: int, epoch: int) -> Rows:
        """`rows` shuffled in an order that can be read efficiently; see `BatchSource`."""
        return shuffled(rows, self.firsts, self.buffer, np.random.default_rng([seed, fold, epoch]))

    def batches(self, steps: Sequence[Rows], *, pin: bool = False) -> Iterator[Batch]:
        """The batch of each step's rows; see `BatchSource`.

        Raises: exceptions of `read`, `decode` and `collate`, at that step or shortly before.
        """
        plan = ReadPlan.of(steps, self.firsts)
        readers = ThreadPoolExecutor(GROUPS_AHEAD, "read")
        decoders = ThreadPoolExecutor(self.workers or os.cpu_count() or 1, "decode")
        decoding: deque[tuple[Rows, list[Future[Decoded]]]] = deque()
        try:
            for rows, raw in zip(steps, self._raw(steps, plan, readers), strict=True):
                decoding.append((rows, [decoders.submit(self.decode, one) for one in raw]))
                if len(decoding) > STEPS_AHEAD:
                    yield self._batch(*decoding.popleft(), pin)
            while decoding:
                yield self._batch(*decoding.popleft(), pin)
        finally:
            # Also if the consumer stops early: without this, threads would read on.
            for pool in (readers, decoders):
                pool.shutdown(cancel_futures=True)

    def _raw(self, steps: Sequence[Rows], plan: "ReadPlan", pool: ThreadPoolExecutor) -> Iterator[list[Raw]]:
        """Yield the undecoded rows of each step; each is kept until its last step."""
        arriving, held, n_read = self._groups(plan, pool), dict[int, Raw](), 0
        for rows, last, needed in zip(steps, plan.last, plan.needed, strict=True):
            while n_read < needed:
                held |= next(arriving)
                n_read += 1
            yield [
                held.pop(row) if gone else held[row]
                for row, gone in zip(rows.tolist(), last.tolist(), strict=True)
            ]

    def _groups(self, plan: "ReadPlan", pool: ThreadPoolExecutor) -> Iterator[Mapping[int, Raw]]:
        """Yield the wanted rows of each group, in the order of the plan."""
        reading: deque[Future[Mapping[int, Raw]]] = deque()
        for group, rows in zip(plan.groups.tolist(), plan.wanted, strict=True):
            reading.append(pool.submit(self.read, group, rows))
            if len(reading) > GROUPS_AHEAD:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()

    def _batch(self, rows: Rows, jobs: list[Future[Decoded]], pin: bool) -> Batch:
        batch = self.collate(rows, [job.result() for job in jobs])
        return batch.map(torch.Tensor.pin_memory) if pin else batch


@dataclass(frozen=True)
class ReadPlan:
    """The reading plan of some steps.

    Attributes:
        groups: `[G']` int64, the groups of all steps in the order in which they are first needed.
        wanted: the needed rows of each of `groups`, ascending.
        needed: number of `groups`, counted from the first, that each step needs.
        last: for each row of each step, whether it is not needed again later.
    """

    groups: Rows
    wanted: list[Rows]
    needed: list[int]
    last: list[npt.NDArray[np.bool_]]

    @classmethod
    def of(cls, steps: Sequence[Rows], firsts: Rows) -> Self:
        """The plan for `steps` of rows that lie in the groups that begin at `firsts`."""
        rows = np.concatenate([np.zeros(0, np.int64), *steps])
        ends = np.cumsum([len(step) for step in steps], dtype=np.int64)
        known, first_at = np.unique(group_of(rows, firsts), return_index=True)
        by_need = np.argsort(first_at)
        # unique reports the first place of a number: reversed, that is the last.
        distinct, from_end = np.unique(rows[::-1], return_index=True)
        last = np.zeros(len(rows), np.bool_)
        last[len(rows) - 1 - from_end] = True
        wanted = np.split(distinct, np.searchsorted(distinct, firsts[known])[1:])
        return cls(
            known[by_need],
            [wanted[i] for i in by_need],
            np.searchsorted(first_at[by_need], ends).tolist(),
            np.split(last, ends)[:-1],
        )


def shuffled(rows: Rows, firsts: Rows, buffer: int, random: np.random.Generator) -> Rows:
    """`rows` with their groups permuted, and then through a shuffle buffer of `buffer` rows."""
    place = random.permutation(len(firsts))
    in_groups = rows[np.lexsort((rows, place[group_of(rows, firsts)]))]
    return in_groups[through_buffer(len(rows), buffer, random)]


def group_of(rows: Rows, firsts: Rows) -> Rows:
    """The group of each row.

    >>> group_of(np.array([0, 3, 4, 9]), np.array([0, 4, 8])).tolist()
    [0, 0, 1, 2]
    """
    groups: Rows = np.searchsorted(firsts, rows, side="right") - 1
    return groups


def through_buffer(n: int, size: int, random: np.random.Generator) -> Rows:
    """The numbers 0 … n - 1 in the order in which they leave a shuffle buffer of `size` places.

    The buffer is filled. Then the number in a random place is replaced by the next one. In the end, the rest
    leaves in random order. The number that leaves at time t is therefore below t + `size`.
    """
    size = min(size, n)
    enters = np.concatenate([np.arange(size), random.integers(0, max(size, 1), n - size)])  # which place
    by_place = np.argsort(enters, kind="stable")  # the numbers of a place side by side, in order
    before, after = by_place[:-1], by_place[1:]
    follows = enters[before] == enters[after]
    leaves = np.empty(n, np.int64)
    leaves[after[follows] - size] = before[follows]  # it leaves when its place gets the next one
    stays = np.ones(n, np.bool_)
    stays[before[follows]] = False
    leaves[n - size :] = random.permutation(np.flatnonzero(stays))
    return leaves
