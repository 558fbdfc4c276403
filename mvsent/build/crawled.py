"""The recipe of a crawl: candidates of a search → pairs with weak labels."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mvsent.build.filters import SIZES, Draft, apply_filters
from mvsent.build.parts import picture_columns
from mvsent.config import BuildSettings
from mvsent.fetch import Dropped, Fetched
from mvsent.pairs import ExtraType, pair_schema, pair_table
from mvsent.reasons import Rejection
from mvsent.sources.crawl.frontier import Found


@dataclass(frozen=True, slots=True)
class Crawled:
    """The filters of a build, and the columns that a search can fill.

    Attributes:
        extra: further columns of the source, some of those of `_further`.
    """

    settings: BuildSettings
    extra: Mapping[str, ExtraType] = field(default_factory=dict)

    @property
    def schema(self) -> pa.Schema:
        return pair_schema(self.extra)

    def draft(self, row: Found) -> Draft | Rejection:
        return apply_filters(row, self.settings)

    def read(self, drafts: Iterable[Draft], n_threads: int) -> Iterator[Fetched | Dropped]:
        return iter(())  # every candidate has an address

    def table(self, pairs: Sequence[tuple[Draft, Fetched]]) -> pa.Table:
        columns = self._columns([draft for draft, _ in pairs])
        columns["url"] = [fetched.asked for _, fetched in pairs]
        further = [_further(draft, fetched) for draft, fetched in pairs]
        columns |= {name: [row[name] for row in further] for name in self.extra}
        return pair_table(columns | picture_columns([fetched for _, fetched in pairs]), self.extra)

    def _columns(self, drafts: Sequence[Draft]) -> dict[str, Any]:
        candidates = [one.candidate for one in drafts]
        return {
            "id": [one.id for one in drafts],
            "text": [one.text for one in drafts],
            "label": [one.label for one in drafts],
            "source": [one.id.partition(":")[0] for one in drafts],
            "query": [one.query.text if one.query else None for one in drafts],
            "query_sentiment": [one.query.sentiment if one.query else None for one in drafts],
            "title": [one.title for one in candidates],
            "description": [one.description for one in candidates],
            "tags": [list(one.tags) for one in candidates],
            "page_url": [one.page_url for one in candidates],
            "license": [one.license for one in candidates],
            "owner": [one.owner for one in candidates],
            "posted_at": [one.posted_at for one in candidates],
            "fetched_at": [one.found.found_at for one in drafts],
        }

    def listed(self, drafts: Sequence[Draft]) -> pa.Table:
        """The pairs without their pictures, with the sizes to try in a column."""
        sizes = [
            json.dumps([[one.url, one.width, one.height, one.name, one.watermarked] for one in draft.sizes])
            for draft in drafts
        ]
        columns = self._columns(drafts) | {"url": [draft.urls[0] for draft in drafts], SIZES: sizes}
        columns["found_in"] = [_found_in(draft) for draft in drafts]
        known = {name: values for name, values in columns.items() if name in self.schema.names}
        return pair_table(known, self.extra)


def _found_in(draft: Draft) -> str | None:
    return ",".join(draft.found_in.get(draft.query, ()) if draft.query else ()) or None


def _further(draft: Draft, fetched: Fetched) -> dict[str, Any]:
    """Values of columns that only some sources have: where the query was found, which size was kept."""
    size = draft.size(fetched.asked)
    return {
        "found_in": _found_in(draft),
        "size": size.name or None,
        "watermarked": size.watermarked,
    }
