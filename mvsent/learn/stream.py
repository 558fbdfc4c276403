"""Rows read from the shards while a network is trained: shuffled in a buffer, read and decoded ahead.

    row groups, permuted → a shuffle buffer of row numbers → the steps of an epoch
                                                                 ↓ which groups, which rows, in which order
                     read ahead → rows kept until their step → decoded ahead → batches

The order is one of numbers alone: no row has to be read to know it. So it is the same for any number of
workers or ranks, and whoever asks for steps k, k + 1 … of an epoch gets what they would have been.
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
"""Row groups that are being read, or wait to be asked for."""

STEPS_AHEAD = 2
"""Steps whose rows are decoded while another is computed."""

Raw = TypeVar("Raw")
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Stream(Generic[Raw, Decoded]):
    """A `BatchSource` of rows that lie in row groups and are read when their step comes near.

    In memory are `buffer` rows, those of `GROUPS_AHEAD` groups, both as they were read, and the batches of
    `STEPS_AHEAD` + 1 steps; more only for steps that `order` did not make.

    Attributes:
        target: `[N]` int64; see `BatchSource`.
        firsts: `[G]` int64, ascending from 0, the number of each group's first row.
        buffer: rows of the shuffle buffer, 1 at least; all rows or more: any order is as likely as another.
        read: the rows asked for of a group, by their numbers. Called by many threads.
        decode: what is done to each row before its batch is made. Called by many threads.
        collate: the batch of a step's decoded rows. Called where the batches are asked for.
        workers: threads that decode; 0: one a core.
    """

    target: npt.NDArray[np.int64]
    firsts: Rows
    buffer: int
    read: Callable[[int, Rows], Mapping[int, Raw]]
    decode: Callable[[Raw], Decoded]
    collate: Callable[[Rows, Sequence[Decoded]], Batch]
    workers: int = 0

    def order(self, rows: Rows, *, seed: int, fold: int, epoch: int) -> Rows:
        """`rows` shuffled as they can be read; see `BatchSource`."""
        return shuffled(rows, self.firsts, self.buffer, np.random.default_rng([seed, fold, epoch]))

    def batches(self, steps: Sequence[Rows], *, pin: bool = False) -> Iterator[Batch]:
        """The batch of each step's rows; see `BatchSource`.

        Raises: what `read`, `decode` and `collate` raise, when that step is asked for or one shortly before.
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
            for pool in (readers, decoders):
                pool.shutdown(cancel_futures=True)

    def _raw(self, steps: Sequence[Rows], plan: "ReadPlan", pool: ThreadPoolExecutor) -> Iterator[list[Raw]]:
        """The rows of each step as they were read; each is kept until its last step."""
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
        """What is wanted of each group, in the plan's order."""
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
    """What has to be read for some steps, and when.

    Attributes:
        groups: `[G']` int64, the groups of all steps in the order in which they are first needed.
        wanted: the rows needed of each of `groups`, ascending.
        needed: how many of `groups` each step needs, counted from the first.
        last: for each row of each step, whether no later place holds it again.
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
    """0 … n - 1 in the order in which they leave a shuffle buffer of `size` places.

    The buffer is filled; then whatever lies in a random place leaves it for the next one, and when no more
    come, the rest leaves in random order. So number t out of it is below t + `size`.
    """
    size = min(size, n)
    enters = np.concatenate([np.arange(size), random.integers(0, max(size, 1), n - size)])  # which place
    by_place = np.argsort(enters, kind="stable")
    before, after = by_place[:-1], by_place[1:]
    follows = enters[before] == enters[after]
    leaves = np.empty(n, np.int64)
    leaves[after[follows] - size] = before[follows]  # it leaves when the next one in its place comes
    stays = np.ones(n, np.bool_)
    stays[before[follows]] = False
    leaves[n - size :] = random.permutation(np.flatnonzero(stays))
    return leaves
