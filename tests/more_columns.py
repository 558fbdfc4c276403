"""A mvsent whose pairs have a column more, to try what older and newer datasets are to it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from mvsent import pairs
from mvsent.pairs import Column
from mvsent.shards.schema import leaf_columns

MOOD = Column("mood", pa.string(), "a mood, drawn", since=pairs.SCHEMA_VERSION + 1)


@contextmanager
def a_column_more() -> Iterator[None]:
    """Within the block it is as if `MOOD` stood at the end of `mvsent.pairs.COLUMNS`."""
    now = {name: getattr(pairs, name) for name in ("COLUMNS", "PAIR_SCHEMA", "SCHEMA_VERSION")}
    schema = pairs.PAIR_SCHEMA.append(pa.field(MOOD.name, MOOD.type))
    more = {"COLUMNS": (*pairs.COLUMNS, MOOD), "PAIR_SCHEMA": schema, "SCHEMA_VERSION": MOOD.since}
    _replace(now, more)
    try:
        yield
    finally:
        _replace(more, now)  # also in modules that were first imported within the block


def _replace(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "mvsent"]:
        for name in old:
            if getattr(module, name, None) is old[name]:
                setattr(module, name, new[name])
    leaf_columns.cache_clear()
