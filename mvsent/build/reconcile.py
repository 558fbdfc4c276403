"""MVSA's annotations, tweets and pictures to a dataset of pairs with one label each (paper §4.1 A).

decide_votes  the annotators' votes → a label for each row, or the reason why it has none
examine       the text, then the picture of each labelled row → a pair, or the reason to drop it
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from mvsent.build.parts import batches
from mvsent.config import LabelRules, ReconcileSettings
from mvsent.curate.aggregate import decide_by_dawid_skene
from mvsent.curate.agreement import krippendorff_alpha
from mvsent.curate.images import ImageFacts, check_image
from mvsent.curate.labels import IMAGE, TEXT, Decisions, Labels, decide, from_modalities
from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.curate.text import clean_text, decode_text
from mvsent.errors import InputError, UsageError
from mvsent.pairs import LABEL_NAMES, REJECTED_SCHEMA, VOTES, pair_table
from mvsent.reasons import Reason, Rejection
from mvsent.shards.manifest import Manifest
from mvsent.shards.staging import staged
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.mvsa import MAX_TEXT_BYTES, Annotations, Mvsa, open_mvsa
from mvsent.workers.engine import LOCAL, Engine, map_in_threads

SHARD_ROWS, PICTURELESS_SHARD_ROWS = 1000, 100_000

TASK_ROWS = 32  # per call in a cluster

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """The dataset, its manifest, and Krippendorff's alpha of `text` and `image` (None for one annotator)."""

    folder: Path
    manifest: Manifest
    agreement: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class ExaminedPair:
    """A row's usable text and picture."""

    raw_text: str
    text: str
    image: bytes
    path: str
    facts: ImageFacts


def reconcile(
    root: Path,
    out: Path | None,
    settings: ReconcileSettings,
    *,
    name: str = "",
    overwrite: bool = False,
    workers: int = 0,
    engine: Engine = LOCAL,
    quiet: bool = False,
) -> ReconcileResult:
    """Write the dataset of the pairs in `root` to `out`, with the reason of every row that is dropped.

    Args:
        root: the MVSA folder, or its zip.
        out: None for data/NAME.
        name: of the dataset, and prefix of its ids. Empty: mvsa-single or mvsa-multiple, by the number of
            annotators; the name also tells the pairs, as in mvsa-single-consistent, unlike the ids.
        workers: threads that read and check files in this process; 0 is one a core.
        engine: what reads and checks the files; workers of a cluster must find `root` under the same path.

    Raises: UsageError, InputError or OutputExistsError; then `out` is as it was.
    """
    with open_mvsa(root) as mvsa:
        annotations = replace(mvsa.annotations(), given_name=name)
        title = name or settings.dataset_name(annotations.name)
        if settings.pairs != "paper" and title in PAPER_TABLE_I:
            raise UsageError(
                f"--name {name}: datasets of this name have the paper's pairs, not --pairs {settings.pairs}",
                f"Leave it out, or choose another, such as {settings.dataset_name(name)}",
            )
        out = out or Path("data", title)
        with (
            staged(out, overwrite=overwrite) as folder,
            DatasetWriter(
                folder,
                title,
                settings=settings.model_dump(),
                shard_size=settings.shard_size
                or (PICTURELESS_SHARD_ROWS if settings.labels_only else SHARD_ROWS),
                text_kind="tweets",
            ) as writer,
            ThreadPoolExecutor(1) as beside,
        ):
            # Alpha and the rejected table are computed beside the writer: a million rows take less time.
            measured = beside.submit(agreement_of, annotations.votes)
            decisions = decide_votes(annotations.votes, settings)
            rejections: dict[int, Rejection] = {}
            if settings.labels_only:
                dropped = beside.submit(_rejected, annotations, decisions, rejections)
                parts = np.array_split(np.flatnonzero(decisions.kept), os.cpu_count() or 1)
                with ThreadPoolExecutor() as pool:
                    columns = pool.map(partial(_labelled, annotations, decisions), parts)
                    writer.write(pa.concat_tables(map(pair_table, columns)))
            else:
                rejections = _write_pairs(
                    writer, mvsa, annotations, decisions, settings, workers, engine, quiet
                )
                dropped = beside.submit(_rejected, annotations, decisions, rejections)
            writer.reject(dropped.result())
            if int(decisions.kept.sum()) <= len(rejections):  # as for a folder of something else
                reasons = [reason for reason in decisions.reason if reason]
                reasons += [rejection.reason for rejection in rejections.values()]
                counted = ", ".join(f"{n} {reason}" for reason, n in Counter(reasons).most_common())
                raise InputError(
                    f"{root}: none of its {len(reasons)} rows can be kept: {counted}",
                    "Give the folder with data/ID.txt and data/ID.jpg, or use --labels-only",
                )
            agreement = measured.result()
            known = any(alpha is not None for alpha in agreement.values())
            manifest = writer.finish(len(annotations.ids), extra={"agreement": agreement} if known else {})
    return ReconcileResult(out, manifest, agreement)


def decide_votes(votes: Labels, settings: LabelRules) -> Decisions:
    """[N, K, 2] votes → one decision per row, by the rules of the settings."""
    by_model = settings.aggregate == "dawid-skene"
    decided = decide_by_dawid_skene(votes) if by_model else decide(votes, settings.ties)
    return from_modalities(decided.text_label, decided.image_label, settings.pairs)


def agreement_of(votes: Labels) -> dict[str, float | None]:
    """[N, K, 2] votes → Krippendorff's alpha of `text` and of `image`."""
    return {
        "text": krippendorff_alpha(votes[:, :, TEXT]),
        "image": krippendorff_alpha(votes[:, :, IMAGE]),
    }


def _write_pairs(
    writer: DatasetWriter,
    mvsa: Mvsa,
    annotations: Annotations,
    decisions: Decisions,
    settings: ReconcileSettings,
    workers: int,
    engine: Engine,
    quiet: bool,
) -> dict[int, Rejection]:
    """Write every row that has a label and usable files, in order; return why the others have none."""
    labelled = np.flatnonzero(decisions.kept).tolist()
    ids = annotations.ids.take(pa.array(labelled, pa.int64())).to_pylist()
    examine_one = partial(examine, mvsa, settings=settings)
    examined = engine.map(partial(map_in_threads, examine_one, engine.threads(workers)), ids, chunk=TASK_ROWS)
    hidden = quiet or not sys.stderr.isatty()
    rejections: dict[int, Rejection] = {}

    def good() -> Iterator[tuple[int, ExaminedPair]]:
        progress = tqdm(examined, total=len(ids), unit="pair", disable=hidden)
        for row, examined_row in zip(labelled, progress, strict=True):
            if isinstance(examined_row, ExaminedPair):
                yield row, examined_row
            else:
                rejections[row] = examined_row

    for batch in batches(good(), lambda row: len(row[1].image)):
        rows, pairs = np.array([row for row, _ in batch], dtype=np.int64), [pair for _, pair in batch]
        files = {
            "image": [{"bytes": pair.image, "path": pair.path} for pair in pairs],
            "text": [pair.text for pair in pairs],
            "description": [pair.raw_text for pair in pairs],
            **{
                name: [getattr(pair.facts, name) for pair in pairs]
                for name in ("width", "height", "sha256", "phash")
            },
        }
        writer.write(pair_table(_labelled(annotations, decisions, rows) | files))
    return rejections


def examine(mvsa: Mvsa, id: str, settings: ReconcileSettings) -> ExaminedPair | Rejection:
    """Check the text, then the picture of a row; return both, or the reason to drop the row."""
    # Of several faults of a row the first counts, in the order of docs/mvsa.md: labels, text, picture.
    path = mvsa.text_name(id)
    try:
        data = mvsa.text(id)
    except InputError as error:
        return Rejection(Reason.TEXT_MISSING, error.what)
    if data is None:
        return Rejection(Reason.TEXT_MISSING, f"no {path}")
    if len(data) > MAX_TEXT_BYTES:
        return Rejection(Reason.TEXT_TOO_LONG, f"{path}: more than {MAX_TEXT_BYTES} bytes")
    raw_text = decode_text(data)
    text = clean_text(raw_text)
    if not text:
        return Rejection(Reason.TEXT_MISSING, f"{path}: nothing in it")
    path = mvsa.image_name(id)
    try:
        image = mvsa.image(id, settings.max_bytes)
    except InputError as error:
        return Rejection(Reason.IMAGE_CORRUPT, error.what)
    if image is None:
        return Rejection(Reason.IMAGE_MISSING, f"no {path}")
    facts = check_image(image, max_pixels=settings.max_pixels, max_bytes=settings.max_bytes)
    if isinstance(facts, Rejection):
        return Rejection(facts.reason, f"{path}: {facts.detail}")
    return ExaminedPair(raw_text, text, image, f"{id}.jpg", facts)


def _labelled(annotations: Annotations, decisions: Decisions, rows: Rows) -> dict[str, Any]:
    """The columns that come from the label file: ids, labels, votes."""
    return {
        "id": _ids(annotations, rows),
        "label": pa.array(decisions.label[rows]),
        "text_label": pa.array(decisions.text_label[rows]),
        "image_label": pa.array(decisions.image_label[rows]),
        "votes": _votes(annotations.votes[rows]),
        "source": pa.repeat(annotations.name, len(rows)),
    }


def _ids(annotations: Annotations, rows: Rows) -> pa.Array:
    ids = annotations.ids.take(pa.array(rows))
    return pc.binary_replace_slice(ids, 0, 0, f"{annotations.name}:")  # in front; quicker than a join


def _votes(votes: Labels) -> pa.Array:
    """[N, K, 2] votes as N lists of K structs."""
    n_rows, n_annotators, _ = votes.shape
    flat = [pa.array(votes[:, :, modality].reshape(-1)) for modality in (TEXT, IMAGE)]
    offsets = np.arange(n_rows + 1, dtype=np.int32) * n_annotators
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.StructArray.from_arrays(flat, fields=list(VOTES.value_type))
    )


def _rejected(
    annotations: Annotations, decisions: Decisions, rejections: Mapping[int, Rejection]
) -> pa.Table:
    """The dropped rows in the order of the label file: those without a label, and `rejections` (by row)."""
    unlabelled = np.flatnonzero(~decisions.kept)
    rows = np.concatenate([unlabelled, np.array(list(rejections), dtype=np.int64)])
    votes = annotations.votes[unlabelled]

    def names(modality: int) -> list[pa.Array]:
        columns = (pa.array(votes[:, k, modality]) for k in range(votes.shape[1]))
        return [pa.array(LABEL_NAMES).take(column) for column in columns]

    # like `text neutral positive, image positive positive`
    text = pc.binary_join_element_wise("text", *names(TEXT), " ")
    image = pc.binary_join_element_wise("image", *names(IMAGE), " ")
    reasons = pa.array(
        decisions.reason[unlabelled].tolist() + [one.reason for one in rejections.values()], pa.string()
    )
    details = pa.chunked_array(
        [
            pc.binary_join_element_wise(text, image, ", "),
            pa.array([one.detail for one in rejections.values()], pa.string()),
        ]
    )
    table = pa.table([_ids(annotations, rows), reasons, details], schema=REJECTED_SCHEMA)
    return table.take(pa.array(np.argsort(rows))) if rejections else table
