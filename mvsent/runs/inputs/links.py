"""Links: features of training rows by the same owner, or with the same tags."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvsent.errors import DatasetError, UsageError
from mvsent.features.backbone import Backbone
from mvsent.learn.batches import Rows
from mvsent.models import registry
from mvsent.models.batch import OWNER_LINKS, TAG_LINKS
from mvsent.runs.inputs.kind import Input, OfFold, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.regions import Floats, pooled_maps
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.inputs.words import Unnumbered, mean_words, word_encoder

log = logging.getLogger("mvsent")

N_LINKS = 8
NO_ROW = -1
MOST_COMMON = 200
"""A key that more training rows than this share is ignored: it says little and costs much."""


@register(OWNER_LINKS, TAG_LINKS)
class LinkedRows(Input):
    """The training rows that share most owners or tags with a row."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        if setup.settings.fine_tune != "none":
            raise UsageError("--fine-tune needs no frozen features, and this model does", "Leave it out")
        if setup.dataset is None:
            log.warning("the run was trained with links between rows; nothing is linked to these pairs")
        model = setup.settings.model
        options = (
            f"--option {key}={value}"
            for (key, value), name in registry.card(model).reads_with.items()
            if name in setup.needed
        )
        self.needs_all_rows = next(options, f"--model {model}")
        self.linked = setup.linked
        self.backbone: Backbone = setup.backbone
        self.columns = ("owner" if OWNER_LINKS in setup.needed else "tags", "text", "image")
        self.encoder, self.max_words = word_encoder(setup), setup.max_words

    @classmethod
    def make(cls, setup: Setup) -> Self:
        return cls(setup)

    def read(self, pairs: Pairs) -> Mapping[str, Callable[[OfFold], "Links"]]:
        column = self.columns[0]  # owner, a text, or tags, a list of texts
        values = pairs.column(column) if self.linked else [None] * len(pairs)
        if pairs.setup.dataset and self.linked and not any(values):
            raise DatasetError(
                f"{pairs.setup.dataset.folder}: has no {column}, which link its rows",
                "Leave the option out: without links the model stands alone (its stated substitute)",
            )
        keys = [value if isinstance(value, list) else [value] if value else [] for value in values]
        pictures = pooled_maps(pairs.maps(self.backbone))
        numbered = Unnumbered(pairs.texts, self.max_words)

        def of_fold(fold: OfFold) -> Links:
            if self.encoder:
                words = mean_words(pairs.words(self.encoder))
            else:
                text = numbered(fold)
                assert text.numbers is not None
                words = fold.vectors[text.numbers].sum(axis=1) / np.maximum(text.lengths, 1)[:, None]
            features = np.concatenate([pictures, words], axis=1).astype(np.float32)
            return Links(linked_rows(keys, fold.train, N_LINKS), features)

        return {"links": of_fold}


@dataclass(frozen=True)
class Links:
    """Linked rows and their features.

    Attributes:
        rows: `[N, K]` int64, linked rows, negative after the last.
        features: `[N, F]` float32, of every row: the mean of its map, and of its words' vectors.
    """

    rows: npt.NDArray[np.int64]
    features: Floats

    def tensors(self, rows: Rows) -> dict[str, Tensor | None]:
        """Features of the rows that are linked to `rows`; see `InputColumn`."""
        linked = self.rows[rows]
        mask = torch.from_numpy(linked >= 0)
        features = torch.from_numpy(self.features[linked])  # NO_ROW takes the last row, which is masked
        return {"links": features * mask.unsqueeze(-1), "link_mask": mask}


def linked_rows(keys: Sequence[Iterable[str]], train: Rows, n_links: int) -> Rows:
    """For each row the training rows that share most keys with it: `[N, n_links]`, filled up with `NO_ROW`.

    Only training rows are linked to, so that an answer depends on no other test row. A row is not linked to
    itself. Ties go to the earlier row.

    >>> linked_rows([["a"], ["a", "b"], ["b"], []], np.array([0, 1]), n_links=2).tolist()
    [[1, -1], [0, -1], [1, -1], [-1, -1]]
    """
    holders: dict[str, list[int]] = defaultdict(list)
    for row in train.tolist():
        for key in set(keys[row]):
            holders[key].append(row)
    linked = np.full((len(keys), n_links), NO_ROW, dtype=np.int64)
    for row, own in enumerate(keys):
        shared: dict[int, int] = defaultdict(int)
        for key in set(own):
            if len(holders.get(key, ())) <= MOST_COMMON:
                for other in holders.get(key, ()):
                    shared[other] += other != row
        best = sorted((other for other, n in shared.items() if n), key=lambda other: (-shared[other], other))
        linked[row, : len(best[:n_links])] = best[:n_links]
    return linked
