"""The page of a dataset: what became of its input, what it holds, and some of its rows."""

import json
from collections import Counter
from typing import Any

import numpy as np

from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.pairs import LABEL_NAMES, Reason
from mvsent.report.charts import Bar, Histogram, count_bars, funnel_bars, histogram, share_bars
from mvsent.report.document import render_document
from mvsent.report.gallery import MAX_TEXT, Gallery, shown
from mvsent.report.histograms import Counts, percentiles
from mvsent.report.survey import NOT_STATED, Survey, kappa
from mvsent.report.tables import UNDEFINED, in_percent
from mvsent.shards.manifest import Manifest

N_LISTED = 12
"""Queries, licences and sources that are drawn; the rest is summed up."""
_SECTIONS = (
    ("funnel", "Funnel"),
    ("labels", "Labels"),
    ("agreement", "Agreement"),
    ("contents", "Texts and pictures"),
    ("origin", "Origin"),
    ("gallery", "Gallery"),
    ("settings", "How it was built"),
)


def render_dataset(manifest: Manifest, found: Survey, gallery: Gallery) -> str:
    """The HTML of a dataset's report."""
    paper = PAPER_TABLE_I.get(manifest.name)
    kept = manifest.funnel.kept
    return render_document(
        "dataset.html",
        {
            "title": shown(manifest.name),
            "lead": f"Pictures and texts with sentiment labels, built {manifest.created_at:%d %B %Y} by "
            f"mvsent {shown(manifest.mvsent_version)}.",
            "sections": _SECTIONS,
            "notes": _notes(manifest),
            "tiles": _tiles(manifest, found),
            "funnel": funnel_bars(manifest.funnel),
            "labels": _label_bars(manifest.labels, kept),
            "label_words": _label_words(manifest, found),
            "paper": _label_bars(dict(paper), sum(paper.values())) if paper else [],
            "label_names": LABEL_NAMES,
            "modalities": _modality_table(found),
            "modality_words": _modality_words(manifest, found),
            "annotator_words": _annotator_words(manifest, found),
            "histograms": _histograms(found),
            "shapes": count_bars(found.shapes.most_common(), found.shapes.total()),
            "origins": _origins(found, kept),
            "gallery": gallery,
            "settings": _settings(manifest),
        },
    )


def _tiles(manifest: Manifest, found: Survey) -> list[tuple[str, str]]:
    funnel = manifest.funnel
    return [
        ("pairs kept", f"{funnel.kept:,}"),
        ("input rows", f"{funnel.input:,}"),
        ("dropped", f"{funnel.n_dropped:,}"),
        ("pictures", f"{int(found.widths.sum()):,}"),
        ("queries", f"{len(found.queries):,}" if found.queries else UNDEFINED),
        ("size", f"{sum(shard.bytes for shard in manifest.shards) / 1e6:,.1f} MB"),
    ]


def _notes(manifest: Manifest) -> list[str]:
    notes = [] if manifest.funnel.kept else ["This dataset has no rows: every row of the input was dropped."]
    if manifest.notes is not None:
        notes.append(shown(json.dumps(manifest.notes, ensure_ascii=False), MAX_TEXT))
    return notes


def _label_bars(labels: dict[str, int], total: int) -> list[Bar]:
    return share_bars([(name, labels.get(name, 0)) for name in LABEL_NAMES], total)


def _label_words(manifest: Manifest, found: Survey) -> str:
    largest = max(manifest.labels.values(), default=0)
    if not largest:
        return "There are no labels."
    share = largest / max(manifest.funnel.kept, 1)
    origin = "The query decided each label." if found.sentiments else "People decided the labels."
    known = found.sentiments or found.annotators[1:].sum()
    return (
        f"{origin if known else ''} Always naming the commonest label would be right {in_percent(share)} of "
        "the time."
    )


def _modality_table(found: Survey) -> list[tuple[str, list[tuple[str, bool]]]]:
    """A row for each text label: its cells, and whether the two labels agree."""
    if not found.modalities.any():
        return []
    return [
        (
            LABEL_NAMES[text],
            [(_cell(found, text, image), text == image) for image in range(len(LABEL_NAMES))],
        )
        for text in range(len(LABEL_NAMES))
    ]


def _cell(found: Survey, text: int, image: int) -> str:
    kept, dropped = found.modalities[text, image], found.conflicts[text, image]
    if dropped and not kept:
        return f"({dropped:,})"
    return f"{kept:,} ({dropped:,})" if dropped else f"{kept:,}"


def _modality_words(manifest: Manifest, found: Survey) -> str:
    total = int(found.modalities.sum())
    if not total:
        return "The two modalities have no labels of their own here."
    everything = found.modalities + found.conflicts
    dropped = int(found.conflicts.sum())
    agreed = np.trace(everything) / everything.sum()
    rows = f"the {total:,} kept pairs" + (f" and {dropped:,} dropped conflicts" if dropped else "")
    beyond = kappa(everything)
    chance = "" if beyond is None else f"; Cohen’s kappa is {beyond:.3f} (1: always, 0: as chance would)"
    n_others = manifest.funnel.dropped.get(Reason.LABEL_CONFLICT, 0) - dropped
    brackets = " Dropped ones stand in brackets." if dropped else ""
    brackets += f" {n_others:,} dropped conflicts are not among them." if n_others > 0 else ""
    return f"Text and picture have the same label in {in_percent(agreed)} of {rows}{chance}.{brackets}"


def _annotator_words(manifest: Manifest, found: Survey) -> str:
    if not found.annotators[1:].sum():
        return "No person's votes are stored with these pairs."
    if not found.n_compared:
        return "Each pair has the vote of one annotator, so that no two can be compared."
    shares = {name: n / found.n_compared for name, n in found.n_unanimous.items()}
    words = (
        f"{found.n_compared:,} kept pairs have two votes or more. All of a pair's annotators agree on the "
        f"text in {in_percent(shares['text'])} and on the picture in {in_percent(shares['image'])} of them."
    )
    if manifest.agreement is None:
        return words
    alphas = [UNDEFINED if value is None else f"{value:.3f}" for value in _alphas(manifest)]
    return f"{words} Krippendorff’s alpha over all annotated rows: text {alphas[0]}, picture {alphas[1]}."


def _alphas(manifest: Manifest) -> tuple[float | None, float | None]:
    return (manifest.agreement.text, manifest.agreement.image) if manifest.agreement else (None, None)


def _histograms(found: Survey) -> list[Histogram]:
    drawn = [
        histogram("Words in a text", "words", found.words, _spread(found.words, "words")),
        histogram("Width of the pictures", "pixels", found.widths, _spread(found.widths, "pixels")),
        histogram("Height of the pictures", "pixels", found.heights, _spread(found.heights, "pixels")),
    ]
    return [one for one in drawn if one is not None]


def _spread(counts: Counts, unit: str) -> str:
    if not counts.any():
        return ""
    lowest, low, middle, high, highest = percentiles(counts)
    if lowest == highest:
        return f"All have {lowest:,} {unit}."
    return (
        f"The median is {middle:,} {unit}; nine in ten lie between {low:,} and {high:,}, all between "
        f"{lowest:,} and {highest:,}."
    )


def _origins(found: Survey, kept: int) -> list[tuple[str, list[Bar], str]]:
    origins = [_origin("Sources", found.sources, kept), _origin("Licences", found.licenses, kept)]
    if not found.queries:
        return [*origins, ("Queries", [], "No row was found by a query.")]
    title, bars, words = _origin("Queries", found.queries, kept)
    sizes = sorted(found.queries.values())
    spread = f"{len(sizes):,} queries found between {sizes[0]:,} and {sizes[-1]:,} pairs each."
    return [*origins, (title, bars, f"{spread} {words}"), *_sentiment_origin(found, kept)]


def _origin(title: str, counts: Counter[str], kept: int) -> tuple[str, list[Bar], str]:
    listed = counts.most_common(N_LISTED)
    words = ""
    if set(counts) <= {NOT_STATED}:
        return title, [], "None is stated."
    if len(counts) > N_LISTED:
        rest = counts.total() - sum(n for _, n in listed)
        words = f"The {N_LISTED} most frequent of {len(counts):,}; the others have {rest:,} pairs."
    return title, count_bars([(shown(name), n) for name, n in listed], kept), words


def _sentiment_origin(found: Survey, kept: int) -> list[tuple[str, list[Bar], str]]:
    """Pairs by the score of the query that found them."""
    if not found.sentiments:
        return []
    ranges: Counter[str] = Counter()
    order = ("below -1", "-1 to 0", "0 to 1", "1 and above")
    for query, score in found.sentiments.items():
        place = int(np.digitize(score, (-1, 0, 1)))
        ranges[order[place]] += found.queries[query]
    bars = count_bars([(name, ranges[name]) for name in order], kept)
    return [("Scores of the queries", bars, "Pairs by the sentiment score of the query that found them.")]


def _settings(manifest: Manifest) -> list[tuple[str, str]]:
    values = [(shown(key), shown(_words(value), MAX_TEXT)) for key, value in manifest.settings.items()]
    return [("rows’ sha256", manifest.sha256), ("shards", f"{len(manifest.shards):,}"), *values]


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
