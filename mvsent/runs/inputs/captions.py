"""Captions of the pictures, from a file beside the dataset; their words are read as those of the texts."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from mvsent.errors import InputError, first_line
from mvsent.learn.batches import Rows, Text
from mvsent.models.batch import CAPTION
from mvsent.runs.inputs.kind import Input, OfFold, register
from mvsent.runs.inputs.pair_sources import Pairs
from mvsent.runs.inputs.setup import Setup
from mvsent.runs.inputs.words import Unnumbered, word_encoder
from mvsent.shards.reader import Dataset

log = logging.getLogger("mvsent")


@register(CAPTION)
class Captions(Input):
    """The captions in the file of `--captions`."""

    needs_all_rows = "--captions"

    def __init__(self, setup: Setup, dataset: Dataset) -> None:
        super().__init__()
        self.path, self.dataset, self.max_words = Path(setup.settings.captions), dataset, setup.max_words
        self.encoder = word_encoder(setup)

    @classmethod
    def make(cls, setup: Setup) -> Self | None:
        if not setup.settings.captions:
            return None
        if setup.dataset is None:
            log.warning("the run was trained with captions; these pictures have none")
            return None
        return cls(setup, setup.dataset)

    def read(self, pairs: Pairs) -> Mapping[str, "Caption | UnnumberedCaption"]:
        captions = read_captions(self.path, self.dataset)
        if not any(captions):
            return {}
        if self.encoder is None:
            return {"caption": UnnumberedCaption(captions, self.max_words)}
        return {"caption": Caption.of(pairs.encoded(self.encoder, captions), captions)}


class Caption(Text):
    """Words of captions, in fields of a batch that are their own."""

    @classmethod
    def of(cls, words: Text, captions: Sequence[str]) -> Self:
        """`words` of `captions`: an empty text is one unknown word, but an empty caption has no words."""
        written = [bool(caption.strip()) for caption in captions]
        return cls(np.where(written, words.lengths, 0), words.numbers, words.vectors)

    def tensors(self, rows: Rows) -> dict[str, Tensor | None]:
        """The words of `rows`; see `InputColumn`."""
        numbers, vectors, mask, _ = self.cut(rows)
        return {"caption": numbers, "caption_vectors": vectors, "caption_mask": mask}


class UnnumberedCaption(Unnumbered):
    """Captions whose words each fold numbers by its own vocabulary."""

    def __call__(self, fold: OfFold) -> Caption:
        """The words of the captions."""
        return Caption.of(super().__call__(fold), self.texts)


def read_captions(path: Path, dataset: Dataset) -> list[str]:
    """Read a caption for every row of `dataset`; empty if the file has none.

    Args:
        path: a Parquet, CSV or TSV file with the columns id and caption.

    Raises: InputError for another kind of file, or for one without an id of the dataset.
    """
    captions = _read(path)
    n_known = sum(id in captions for id in dataset.ids)
    if not n_known:
        ours, theirs = (next(iter(ids), "") for ids in (dataset.ids, captions))
        raise InputError(
            f"{path}: has no caption for any row of {dataset.folder}",
            "Add its rows to the file of --captions, which may hold those of several datasets. "
            f"The dataset's ids look like {ours!r}, those of the file like {theirs!r}",
        )
    log.info("captions: %d of %d rows", n_known, len(dataset))
    return [captions.get(id, "") for id in dataset.ids]


def _read(path: Path) -> dict[str, str]:
    wanted = "Give a .parquet, .csv or .tsv file with the columns id and caption"
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=["id", "caption"])
            rows = zip(table["id"].to_pylist(), table["caption"].to_pylist(), strict=True)
            return {str(id): str(caption or "") for id, caption in rows}
        # Excel writes a byte order mark, which would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t")
            return {line["id"]: line["caption"] or "" for line in lines}
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable ({first_line(error)})", wanted) from None
    except KeyError as error:
        raise InputError(f"{path}: has no column {error}", wanted) from None
