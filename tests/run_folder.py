"""Run folders without training: predictions that know a little, histories that look like training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mvsent.config import TrainSettings
from mvsent.pairs import LABEL_NAMES
from mvsent.runs.run_folder import ROWS, Resolved, RunFolder
from mvsent.runs.seen_rows import KINDS

SHARES = np.array([0.3, 0.1, 0.6])  # those of MVSA-Single


def write_run(
    path: Path,
    *,
    n_folds: int = 3,
    finished: Sequence[int] | None = None,
    n_rows: int = 120,
    classes: Sequence[int] = (0, 1, 2),
    dataset_sha256: str = "d" * 64,
    trained_labels: Sequence[int] | None = (0, 1, 2, 2, 2),
    **settings: Any,
) -> Path:
    """A run of DMLANet on `mvsa-single`, whose dataset folder does not exist.

    `trained_labels` are recorded as those of the training rows of every fold; None: no row is recorded, as by
    earlier versions.
    """
    resolved = Resolved(
        dataset_name="mvsa-single",
        dataset_sha256=dataset_sha256,
        split_sha256="5" * 64,
        classes=list(classes),
        n_folds=n_folds,
        max_words=40,
        backbone_sha256="",
        words_sha256="",
        word_size=8,
        threads=1,
    )
    settings = {"dataset": str(path.parent / "gone"), **settings}
    run = RunFolder.create(path, TrainSettings(**settings), resolved, overwrite=False)
    if trained_labels is not None:
        write_record(run.path, trained_labels, n_folds)
    for fold in range(n_folds) if finished is None else finished:
        run.fold(fold).mkdir()
        parts = [predictions(n_rows, classes, seed=fold, role=role) for role in ("validation", "test")]
        pq.write_table(pa.concat_tables(parts), run.fold(fold) / "predictions.parquet")
        (run.fold(fold) / "history.csv").write_text(history(8 + fold, seed=fold))
    return path


def write_record(path: Path, labels: Sequence[int], n_folds: int) -> None:
    """A `rows.parquet` of rows like no others, all of them trained on in every fold."""
    keys = {kind: np.arange(1, len(labels) + 1, dtype=np.uint64) for kind in KINDS}
    names = [f"{flag}_{fold}" for flag in ("fold", "trained") for fold in range(n_folds)]
    flags = {name: np.ones(len(labels), bool) for name in names}
    pq.write_table(pa.table({**keys, "label": np.array(labels, np.int8), **flags}), path / ROWS)


def answers(
    n_rows: int, classes: Sequence[int], seed: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Labels and probabilities; every class has a row if there are enough."""
    rng = np.random.default_rng(seed)
    chosen = list(classes)
    y_true = rng.choice(chosen, size=n_rows, p=SHARES[chosen] / SHARES[chosen].sum())
    y_true[: len(chosen)] = chosen
    logits = rng.normal(size=(n_rows, 3)) + 1.3 * np.eye(3)[y_true] + np.log(SHARES)
    logits[:, np.setdiff1d(range(3), chosen)] = -np.inf
    y_prob = np.exp(logits)
    return y_true.astype(np.int8), (y_prob / y_prob.sum(axis=1, keepdims=True)).astype(np.float32)


def predictions(n_rows: int, classes: Sequence[int], seed: int, role: str = "test") -> pa.Table:
    """A `predictions.parquet` of one role."""
    y_true, y_prob = answers(n_rows, classes, seed)
    probabilities = {f"p_{name}": y_prob[:, i] for i, name in enumerate(LABEL_NAMES)}
    ids = [f"mvsa-single:{role}-{seed}-{i}" for i in range(n_rows)]
    return pa.table({"id": ids, "label": y_true, **probabilities, "role": [role] * n_rows})


def history(n_epochs: int, seed: int) -> str:
    """A `history.csv` whose validation accuracy is best in the middle."""
    lines = ["epoch,train_loss,train_accuracy,validation_loss,validation_accuracy,seconds"]
    for epoch in range(n_epochs):
        falling = 0.9 ** (epoch + 1)
        best = 0.7 - 0.01 * abs(epoch - n_epochs // 2) + 0.001 * seed
        lines.append(
            f"{epoch},{falling:.4f},{1 - 0.5 * falling:.4f},{0.7 + 0.2 * falling:.4f},{best:.4f},1.5"
        )
    return "\n".join(lines) + "\n"
