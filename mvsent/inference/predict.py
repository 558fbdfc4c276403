"""Predictions for new pairs: one pair, a table, a folder, a dataset, or an endless pipe."""

import io
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import IO, Any, BinaryIO, cast

from tqdm import tqdm

from mvsent.errors import InputError, UsageError, did_you_mean, printable
from mvsent.inference.answer_tables import answer_writer, records
from mvsent.inference.model import BATCH_SIZE, Answers, Model, clean, load
from mvsent.inference.pair_tables import CSV, JSONL, KINDS, PARQUET, SUFFIXES, PairRow, PairTable, open_table
from mvsent.pairs import LABEL_NAMES
from mvsent.runs.inputs.pictures import Picture
from mvsent.shards.atomic import atomic_write
from mvsent.shards.staging import claimed

Judged = tuple[list[PairRow], Answers]


@dataclass(frozen=True)
class PredictResult:
    """The written file, the numbers of rows and of rows with an error, and the number of rows by class."""

    out: Path | None
    rows: int
    failed: int
    labels: dict[str, int]

    def document(self) -> dict[str, Any]:
        """The result as JSON's types."""
        out = str(self.out) if self.out else None
        return {"out": out, "rows": self.rows, "failed": self.failed, "labels": self.labels}

    def words(self) -> str:
        """The result in a line."""
        counts = [f"{n} {name}" for name, n in self.labels.items()]
        counts += [f"{self.failed} with an error"] * bool(self.failed)
        return f"{self.rows} rows: {', '.join(counts)}" + (f" → {self.out}" if self.out else "")


def predict_pair(
    run: Path, image: Path | None, text: str | None, *, fold: int | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Predict one pair, with the fields of a table's row.

    Raises: InputError if the picture cannot be read; UsageError if both picture and text are absent.
    """
    if image is None and not clean(text):
        raise UsageError(
            "there is neither a picture nor a text", "Give --image, --text, or an INPUT: a table, a folder, -"
        )
    answers = load(run, fold, device).predict([image], [text])
    if answers.errors[0]:
        raise InputError(f"--image {image}: {answers.errors[0]}", "Give another picture, or --text alone")
    return records(answers)[0]


def pair_words(answer: dict[str, Any]) -> str:
    """The answer to one pair as a line."""
    probabilities = "  ".join(f"{name} {100 * answer[f'p_{name}']:.1f} %" for name in LABEL_NAMES)
    without = f"  (without {answer['missing']})" if answer["missing"] else ""
    return f"{answer['label']}: {probabilities}{without}"


def predict_table(
    run: Path,
    source: Path | BinaryIO,
    *,
    out: Path | None = None,
    stdout: IO[bytes] | None = None,
    kind: str = "",
    fold: int | None = None,
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    overwrite: bool = False,
    quiet: bool = False,
) -> PredictResult:
    """Predict every row of `source`, in its order, and write the answers to the file `out` or to `stdout`.

    Args:
        source: a table, a folder of pictures, a dataset folder, or an open pipe.
        kind: csv, jsonl or parquet: the format of a pipe, and of the answers unless the suffix of `out`
            says it.

    The file appears when it is complete. A row that cannot be predicted has an error instead of an answer.

    Raises: UsageError, OutputExistsError, RunError, WeightsError before a row is read; InputError if the
        input ends prematurely.
    """
    if kind and kind not in KINDS:
        choice = f"Choose from {', '.join(KINDS)}"
        raise UsageError(f"--format: unknown {kind!r}", did_you_mean(kind, KINDS) + choice)
    if batch_size < 1:
        raise UsageError("--batch-size: must be at least 1", "Leave it out for 64")
    if out is not None and out.exists():
        if isinstance(source, Path) and source.exists() and out.samefile(source):
            raise UsageError(f"--out {out}: is the input itself", "Choose another name")
        if out.is_dir():
            raise UsageError(f"--out {out}: is a folder", "Name a file in it")
    # The writer of a pipe may wait for an answer, so a batch of a pipe is what has arrived so far.
    is_pipe = hasattr(source, "readline")
    table = open_table(source, kind or JSONL)
    written = output_kind(table, out, kind)
    with _opened(out, stdout, overwrite=overwrite) as file:
        model = load(run, fold, device)
        judged = judge(model, table, batch_size, eager=is_pipe)
        return write_answers(judged, table, written, file, out, quiet=quiet)


def judge(model: Model, table: PairTable, batch_size: int = BATCH_SIZE, *, eager: bool) -> Iterator[Judged]:
    """Yield the rows of `table` with their answers in batches, decoding pictures in advance.

    With `eager` a batch is what has been read so far, at least one row; otherwise every batch but the last is
    full. At most three batches are in memory.
    """
    for batch in _batches(model, table.rows, batch_size, eager=eager):
        rows = [row for row, _ in batch]
        pictures = [
            replace(decoded.result(), error=row.error) if row.error else decoded.result()
            for row, decoded in batch
        ]
        yield rows, model.answer(pictures, [row.text or "" for row in rows])


_Waiting = tuple[PairRow, "Future[Picture]"]
_END = None


def _batches(
    model: Model, rows: Iterator[PairRow], batch_size: int, *, eager: bool
) -> Iterator[list[_Waiting]]:
    """Yield rows whose pictures are being decoded.

    A thread reads them, so that decoding and prediction overlap.
    """
    queue: Queue[_Waiting | Exception | None] = Queue(2 * batch_size)
    stop = Event()
    with ThreadPoolExecutor(thread_name_prefix="pictures") as pool:
        # A daemon: a pipe that never ends must not keep the process alive.
        reader = Thread(target=_read, args=(model, rows, queue, pool, stop), daemon=True)
        reader.start()
        try:
            yield from _gathered(queue, batch_size, eager=eager)
        finally:
            stop.set()  # also if the consumer stops early


def _read(
    model: Model,
    rows: Iterator[PairRow],
    queue: "Queue[_Waiting | Exception | None]",
    pool: ThreadPoolExecutor,
    stop: Event,
) -> None:
    """Put every row into the queue, then the end marker or the exception."""
    last: Exception | None = _END
    try:
        for row in rows:
            image = None if row.error else row.image
            if not _put(queue, (row, pool.submit(model.decode, image)), stop):
                return
    except Exception as error:  # raised again by the consuming thread
        last = error
    _put(queue, last, stop)


def _put(queue: "Queue[_Waiting | Exception | None]", item: _Waiting | Exception | None, stop: Event) -> bool:
    while not stop.is_set():
        try:
            # Without a timeout, a thread whose consumer has gone would wait for ever.
            queue.put(item, timeout=0.2)
        except Full:
            continue
        return True
    return False


def _gathered(
    queue: "Queue[_Waiting | Exception | None]", batch_size: int, *, eager: bool
) -> Iterator[list[_Waiting]]:
    """Yield batches from the queue; rows that were read before an exception precede it."""
    batch: list[_Waiting] = []
    while True:
        try:
            item = queue.get(block=not (eager and batch))
        except Empty:
            yield batch
            batch = []
            continue
        if isinstance(item, tuple):
            batch.append(item)
        if batch and (not isinstance(item, tuple) or len(batch) == batch_size):
            yield batch
            batch = []
        if isinstance(item, Exception):
            raise item
        if item is _END:
            return


def write_answers(
    judged: Iterator[Judged], table: PairTable, kind: str, file: IO[bytes], out: Path | None, *, quiet: bool
) -> PredictResult:
    """Write every batch to `file` as soon as it is predicted. Raises: InputError if there are no rows."""
    writer, counts, failed = None, Counter[str](), 0
    hidden = quiet or not sys.stderr.isatty()
    try:
        with tqdm(desc=f"judging {table.name}", unit=" rows", disable=hidden) as bar:
            for rows, answers in judged:
                writer = writer or answer_writer(kind, file, table, rows[0])
                writer.write(rows, answers)
                counts.update(answers.labels)
                failed += sum(map(bool, answers.errors))
                bar.update(len(rows))
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise InputError(f"{table.name}: has no rows", "Give a table with rows")
    labels = {name: counts[name] for name in LABEL_NAMES if counts[name]}
    return PredictResult(out, sum(counts.values()), failed, labels)


def output_kind(table: PairTable, out: Path | None, kind: str) -> str:
    """The format of the answers: by the suffix of `out`, else `kind`, else that of the input.

    Answers to a Parquet file are CSV if there is no output file.

    Raises: UsageError if the suffix and `kind` contradict each other, or for Parquet without a file.
    """
    if out is None and kind == PARQUET:
        raise UsageError("--format parquet: needs a file", "Give --out")
    if out is None and not kind and table.kind == PARQUET:
        return CSV
    named = SUFFIXES.get(out.suffix.lower(), "") if out else ""
    if named and kind and named != kind and table.name != "stdin":
        raise UsageError(f"--format {kind}: the suffix of {out} means {named}", "Leave out one of them")
    return named or kind or table.kind


@contextmanager
def _opened(out: Path | None, stdout: IO[bytes] | None, *, overwrite: bool) -> Iterator[IO[bytes]]:
    if out is not None:
        with claimed(out, overwrite=overwrite), atomic_write(out) as file:
            yield file
    elif stdout is not None:
        yield stdout
    elif sys.stdout.name == os.devnull:  # the shell closed it
        raise UsageError("stdout is closed", "Give --out, or leave it open")
    else:
        yield cast("IO[bytes]", _Terminal()) if sys.stdout.isatty() else sys.stdout.buffer


class _Terminal(io.BufferedIOBase):
    """A terminal that displays control characters in untrusted text instead of interpreting them."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        lines = bytes(data).decode("utf-8", "backslashreplace").split("\n")
        sys.stdout.write("\n".join(map(printable, lines)))
        return len(data)

    def flush(self) -> None:
        sys.stdout.flush()
