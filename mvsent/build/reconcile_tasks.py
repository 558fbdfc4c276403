"""Label Studio's annotations of a dataset → a dataset of the same pairs, labelled by the rules of MVSA."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mvsent.build.reconcile import SHARD_ROWS, ReconcileResult, agreement_of, decide_votes
from mvsent.config import ReconcileTasksSettings
from mvsent.curate.labels import IMAGE, MISSING, TEXT, Decisions, Labels
from mvsent.errors import InputError, UsageError
from mvsent.pairs import LABEL_NAMES, REJECTED_SCHEMA, VOTES, pair_table
from mvsent.reasons import Reason
from mvsent.shards.reader import Dataset
from mvsent.shards.staging import staged
from mvsent.shards.writer import DatasetWriter
from mvsent.sources.label_studio import MAX_EXPORT_BYTES, SetAside, TaskAnnotations, Vote, parse_export

BATCH_ROWS = 256  # a row group
MAX_VOTES = 2**30  # rows x annotators x 2, a byte each


@dataclass(frozen=True, slots=True)
class AnnotatedResult(ReconcileResult):
    """A ReconcileResult with numbers of annotations: those that count, and the others by reason."""

    annotations: dict[str, int]


def reconcile_tasks(
    export: Path,
    folder: Path,
    out: Path | None,
    settings: ReconcileTasksSettings,
    *,
    name: str = "",
    overwrite: bool = False,
) -> AnnotatedResult:
    """Write the pairs of the dataset in `folder` on which the annotators in `export` agree to `out`.

    The funnel's input is the rows of that dataset; a row without annotations is dropped as `not-annotated`.

    Args:
        out: None for data/ and its name.
        name: of the new dataset; empty for NAME-annotated, or NAME-annotated-consistent, by the pairs.

    Raises: InputError, DatasetError, UsageError or OutputExistsError; then `out` is as it was.
    """
    dataset = Dataset.open(folder)
    try:
        with export.open("rb") as file:
            content = file.read(MAX_EXPORT_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{export}: no such file", "Give the JSON export of Label Studio") from None
    except IsADirectoryError:
        raise UsageError(f"{export}: is a folder", "Give the JSON export of Label Studio") from None
    if len(content) > MAX_EXPORT_BYTES:
        raise InputError(f"{export}: more than {MAX_EXPORT_BYTES >> 20} MiB", "Export the project in parts")
    answers = parse_export(content, str(export))
    votes_of = _by_row(dataset, answers, export)
    name = name or settings.dataset_name(f"{dataset.name}-annotated")
    out = out or Path("data", name)
    described = settings.model_dump() | {
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "label_studio_sha256": hashlib.sha256(content).hexdigest(),
    }
    dense = _no_votes(len(votes_of), max(map(len, votes_of), default=0))  # a row's votes side by side
    for row, given in enumerate(votes_of):
        # Sorted: the order of annotations in the export must not change the bytes.
        for place, person in enumerate(sorted(given)):
            dense[row, place] = given[person].text, given[person].image
    one_sided = not (dense != MISSING).any(axis=(0, 1)).all()
    if settings.pairs == "consistent" and one_sided:
        raise InputError(
            f"{export}: has labels of texts alone or pictures alone, and --pairs consistent needs both",
            "Annotate both, or use --pairs text or image",
        )
    # Dawid-Skene needs a column for each annotator, a majority does not.
    by_annotator = dense if settings.aggregate == "majority" else _votes_by_annotator(votes_of)
    decisions = decide_votes(by_annotator, settings)
    if not decisions.kept.any():
        counted = Counter(str(_reason(decisions, votes_of, row)) for row in range(len(votes_of)))
        reasons = ", ".join(f"{n} {reason}" for reason, n in counted.most_common())
        raise InputError(
            f"{export}: none of the {len(votes_of)} rows can be kept: {reasons}",
            "Annotate both the texts and the pictures",
        )
    agreement = agreement_of(dense)  # alpha counts votes, whoever cast them
    ignored = {str(reason): answers.set_aside[reason] for reason in SetAside if answers.set_aside[reason]}
    counts = {"counted": answers.n_annotations - sum(ignored.values()), **ignored}
    with (
        staged(out, overwrite=overwrite) as partial,
        DatasetWriter(
            partial,
            name,
            settings=described,
            shard_size=settings.shard_size or SHARD_ROWS,
            **dataset.manifest.layout | {"labelled": True},
        ) as writer,
    ):
        position = 0
        for pairs in dataset.pairs(BATCH_ROWS):
            at = slice(position, position := position + pairs.num_rows)
            columns = dict(zip(pairs.column_names, pairs.columns, strict=True)) | {
                "label": pa.array(decisions.label[at]),
                "text_label": pa.array(decisions.text_label[at]),
                "image_label": pa.array(decisions.image_label[at]),
                "votes": _votes(votes_of[at]),
            }
            labelled = pair_table(columns, dataset.manifest.extra_columns)
            writer.write(labelled.filter(pa.array(decisions.kept[at])))
        writer.reject(_rejected(dataset.ids, decisions, votes_of))
        known = any(alpha is not None for alpha in agreement.values())
        extra = {"notes": {"annotations": counts}} | ({"agreement": agreement} if known else {})
        manifest = writer.finish(len(dataset), extra=extra)
    return AnnotatedResult(out, manifest, agreement, counts)


Rows = Sequence[dict[str, Vote]]
"""The votes on every row of the dataset, by annotator."""


def _by_row(dataset: Dataset, answers: TaskAnnotations, export: Path) -> Rows:
    """The votes on each row of the dataset. Raises: InputError if there are none at all."""
    votes = [answers.votes.pop(id, {}) for id in dataset.ids]
    # The rows of the dataset have taken theirs; the rest belongs to other pairs.
    strangers = sum(map(len, answers.votes.values()))
    if strangers:
        answers.set_aside[SetAside.UNKNOWN_ID] += strangers
    if not any(votes):
        counted = ", ".join(f"{n} {reason}" for reason, n in answers.set_aside.most_common())
        raise InputError(
            f"{export}: none of its {answers.n_tasks} tasks has an annotation of a pair in {dataset.folder}"
            + (f": {counted}" if counted else ""),
            "Give the export of the project that was made from this dataset",
        )
    return votes


def _no_votes(n_rows: int, n_annotators: int) -> Labels:
    """[N, K, 2] without a vote. Raises: InputError if that would fill the memory."""
    if 2 * n_rows * n_annotators > MAX_VOTES:
        raise InputError(
            f"{n_rows} rows with {n_annotators} annotators are more votes than {MAX_VOTES}",
            "Reconcile the export in parts, or with --aggregate majority",
        )
    return np.full((n_rows, n_annotators, 2), MISSING, dtype=np.int8)


def _votes_by_annotator(rows: Rows) -> Labels:
    """Votes [N, K, 2] with a column for each of all K annotators."""
    people = {person: k for k, person in enumerate(sorted({p for given in rows for p in given}))}
    votes = _no_votes(len(rows), len(people))
    for row, given in enumerate(rows):
        for person, vote in given.items():
            votes[row, people[person]] = vote.text, vote.image
    return votes


def _votes(rows: Rows) -> pa.Array:
    return pa.array(
        [
            [
                {"text": _or_null(given[person].text), "image": _or_null(given[person].image)}
                for person in sorted(given)
            ]
            for given in rows
        ],
        VOTES,
    )


def _or_null(label: int) -> int | None:
    return None if label == MISSING else label


def _rejected(ids: Sequence[str], decisions: Decisions, rows: Rows) -> pa.Table:
    """The dropped rows in the order of the dataset."""
    dropped = [
        {"id": ids[row], "reason": str(_reason(decisions, rows, row)), "detail": _in_words(rows[row])}
        for row in np.flatnonzero(~decisions.kept).tolist()
    ]
    return pa.Table.from_pylist(dropped, REJECTED_SCHEMA)


def _reason(decisions: Decisions, rows: Rows, row: int) -> Reason:
    reason: Reason = decisions.reason[row] if rows[row] else Reason.NOT_ANNOTATED
    return reason


def _in_words(given: dict[str, Vote]) -> str:
    """`text neutral positive, image positive -`, a dash for a question left open; empty without votes."""
    if not given:
        return ""
    votes = [(given[person].text, given[person].image) for person in sorted(given)]
    names = (*LABEL_NAMES, "-")  # index -1
    text, image = (" ".join(names[vote[modality]] for vote in votes) for modality in (TEXT, IMAGE))
    return f"text {text}, image {image}"
