"""`rejected.parquet`: one row for every dropped input, written a row group at a time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mvsent.errors import DatasetError, first_line
from mvsent.pairs import REJECTED_SCHEMA
from mvsent.reasons import Reason
from mvsent.shards.atomic import PartialFile, sync_folder
from mvsent.storage import readable

REJECTED_FILE = "rejected.parquet"
_GROUP_ROWS = 1 << 17  # some megabytes
_BATCH_ROWS = 8192


def read_rejected(folder: Path) -> Iterator[pa.Table]:
    """Read the dropped rows of the dataset in `folder`, thousands at a time.

    Raises: DatasetError if they cannot be read, or lack a column.
    """
    path = folder / REJECTED_FILE
    try:
        with readable(path) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=REJECTED_SCHEMA.names):
                yield pa.Table.from_batches([batch]).select(REJECTED_SCHEMA.names).cast(REJECTED_SCHEMA)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({first_line(error)})", "Restore the file, or build it again"
        ) from None


class RejectedFile:
    """Writes the dropped rows of the dataset in `folder`; the file gets its name when it is closed.

    The bytes depend only on the rows, not on their distribution over calls of `append`.

    Attributes:
        n_pending: number of rows in memory whose row group is not full.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / REJECTED_FILE
        self._counts: Counter[str] = Counter()
        self._pending: list[pa.Table] = []
        self.n_pending = 0
        self._open: tuple[PartialFile, pq.ParquetWriter] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by reason, in the order of `Reason`."""
        return {str(reason): self._counts[reason] for reason in Reason if reason in self._counts}

    def append(self, table: pa.Table) -> None:
        """Append rows. Raises: ValueError if the columns are not those of `REJECTED_SCHEMA`."""
        if not table.schema.equals(REJECTED_SCHEMA):
            raise ValueError(f"not the columns of REJECTED_SCHEMA: {table.schema}")
        for entry in pc.value_counts(table["reason"]).to_pylist():
            self._counts[entry["values"]] += entry["counts"]
        self._pending.append(table)
        self.n_pending += table.num_rows
        if self.n_pending >= _GROUP_ROWS:
            self._write(self.n_pending - self.n_pending % _GROUP_ROWS)

    def close(self) -> None:
        """Write the remaining rows and close the file."""
        partial, parquet = self._write(self.n_pending)
        with partial.naming_path():
            parquet.close()
        partial.commit()
        sync_folder(self._path.parent)

    def abandon(self) -> None:
        """Remove the file, unless it was closed."""
        if self._open is not None:
            partial, parquet = self._open
            with suppress(OSError, ValueError):  # writes a footer, which fails again on a full disk
                parquet.close()
            partial.discard()

    def _write(self, n_rows: int) -> tuple[PartialFile, pq.ParquetWriter]:
        """Write the first `n_rows` that wait; groups of contiguous columns, so that no earlier cut shows."""
        partial, parquet = self._open = self._open or self._begin()
        waiting = pa.concat_tables([REJECTED_SCHEMA.empty_table(), *self._pending])
        with partial.naming_path():
            for start in range(0, n_rows, _GROUP_ROWS):
                group = waiting.slice(start, min(_GROUP_ROWS, n_rows - start))
                parquet.write_table(group.combine_chunks())
        self._pending, self.n_pending = [waiting.slice(n_rows)], self.n_pending - n_rows
        return partial, parquet

    def _begin(self) -> tuple[PartialFile, pq.ParquetWriter]:
        partial = PartialFile(self._path)
        options = {"compression": "zstd", "use_dictionary": ["reason", "detail"]}
        return partial, pq.ParquetWriter(partial.file, REJECTED_SCHEMA, **options)
