"""The page of a dataset: its funnel, its contents, and a sample of its rows."""

from collections import Counter

import numpy as np

from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.pairs import LABEL_NAMES, UNLABELLED, Label
from mvsent.report.charts import Bar, count_bars, funnel_bars, histogram, share_bars
from mvsent.report.document import render_document
from mvsent.report.gallery import MAX_TERMS, MAX_TEXT, Gallery, shown
from mvsent.report.histograms import Counts, percentiles
from mvsent.report.survey import CONFLICTS, NOT_STATED, Survey, kappa
from mvsent.report.tables import UNDEFINED, in_percent
from mvsent.shards.manifest import Manifest
from mvsent.shards.manifest_notes import gaps, other_notes
from mvsent.shards.shown_settings import shown_settings
from mvsent.shards.terms import joint_terms

N_LISTED = 12
"""Maximum number of queries, licences and sources drawn; the others are summed up."""
MAX_NOTE = 2000
"""Maximum length of a note, in characters."""
_SECTIONS = (
    ("funnel", "Funnel"),
    ("labels", "Labels"),
    ("agreement", "Agreement"),
    ("contents", "Texts and pictures"),
    ("origin", "Origin"),
    ("gallery", "Gallery"),
    ("settings", "How it was built"),
)


def render_dataset(manifest: Manifest, survey: Survey, gallery: Gallery) -> str:
    """Render the HTML of a dataset's report."""
    paper = PAPER_TABLE_I.get(manifest.name)
    funnel = manifest.funnel
    notes = [] if funnel.kept else ["This dataset has no rows: every row of the input was dropped."]
    folded = [
        (f"{title} ({len(lines)})", [shown(line, MAX_NOTE) for line in lines])
        for title, lines in (
            ("Gaps of the search", gaps(manifest.notes)),
            ("Notes of the build", other_notes(manifest.notes)),
        )
        if lines
    ]
    histograms = [
        histogram(title, unit, counts, _spread(counts, unit))
        for title, unit, counts in (
            ("Words in a text", "words", survey.words),
            ("Width of the pictures", "pixels", survey.widths),
            ("Height of the pictures", "pixels", survey.heights),
        )
    ]
    return render_document(
        "dataset.html",
        {
            "title": shown(manifest.name),
            "lead": f"Pictures and texts with sentiment labels, built {manifest.created_at:%d %B %Y} by "
            f"mvsent {shown(manifest.mvsent_version)}.",
            "sections": _SECTIONS,
            "notes": notes,
            "folded": folded,
            "terms": shown(joint_terms(manifest.sources).text, MAX_TERMS),
            "tiles": [
                ("pairs kept", f"{funnel.kept:,}"),
                ("input rows", f"{funnel.input:,}"),
                ("dropped", f"{funnel.n_dropped:,}"),
                ("pictures", f"{int(survey.widths.sum()):,}"),
                ("queries", f"{len(survey.queries):,}" if survey.queries else UNDEFINED),
                *(
                    [("with a watermark", f"{survey.n_watermarked:,}")]
                    if survey.n_watermarked is not None
                    else []
                ),
                ("size", f"{sum(shard.bytes for shard in manifest.shards) / 1e6:,.1f} MB"),
            ],
            "funnel": funnel_bars(funnel),
            "labels": _label_bars(manifest.labels, funnel.kept),
            "label_words": _label_words(manifest, survey),
            "paper": _label_bars(dict(paper), sum(paper.values())) if paper else [],
            "label_names": LABEL_NAMES,
            # A row for each text label: its cells, and whether the two labels agree.
            "modalities": [
                (LABEL_NAMES[text], [(_cell(survey, text, image), text == image) for image in Label])
                for text in Label
                if survey.modalities.any()
            ],
            "modality_words": _modality_words(manifest, survey),
            "annotator_words": _annotator_words(manifest, survey),
            "histograms": [drawn for drawn in histograms if drawn is not None],
            "shapes": count_bars(survey.shapes.most_common(), survey.shapes.total()),
            "origins": _origins(survey, funnel.kept),
            "gallery": gallery,
            "settings": [
                ("rows’ sha256", manifest.sha256),
                ("shards", f"{len(manifest.shards):,}"),
                *((shown(key), shown(text, MAX_TEXT)) for key, text in shown_settings(manifest).items()),
            ],
        },
    )


def _label_bars(labels: dict[str, int], total: int) -> list[Bar]:
    bars = [(name, labels.get(name, 0)) for name in LABEL_NAMES]
    n_unlabelled = total - sum(labels.values())
    return share_bars([*bars, (UNLABELLED, n_unlabelled)] if n_unlabelled > 0 else bars, total)


def _label_words(manifest: Manifest, survey: Survey) -> str:
    largest = max(manifest.labels.values(), default=0)
    if not largest:
        return "There are no labels."
    share = largest / max(manifest.funnel.kept, 1)
    origin = "The query decided each label." if survey.sentiments else "People decided the labels."
    known = survey.sentiments or survey.annotators[1:].sum()
    return (
        f"{origin if known else ''} Always predicting the most frequent label would be right in "
        f"{in_percent(share)} of the pairs."
    )


def _cell(survey: Survey, text: int, image: int) -> str:
    kept, dropped = survey.modalities[text, image], survey.conflicts[text, image]
    if dropped and not kept:
        return f"({dropped:,})"
    return f"{kept:,} ({dropped:,})" if dropped else f"{kept:,}"


def _modality_words(manifest: Manifest, survey: Survey) -> str:
    total = int(survey.modalities.sum())
    if not total:
        return "Text and picture have no labels of their own here."
    everything = survey.modalities + survey.conflicts
    dropped = int(survey.conflicts.sum())
    agreed = np.trace(everything) / everything.sum()
    rows = f"the {total:,} kept pairs" + (f" and {dropped:,} dropped conflicts" if dropped else "")
    beyond = kappa(everything)
    chance = "" if beyond is None else f"; Cohen’s kappa is {beyond:.3f} (1: always, 0: as by chance)"
    n_others = sum(manifest.funnel.dropped.get(reason, 0) for reason in CONFLICTS) - dropped
    brackets = " Dropped conflicts are in brackets." if dropped else ""
    brackets += f" {n_others:,} further dropped conflicts are not included." if n_others > 0 else ""
    return f"Text and picture have the same label in {in_percent(agreed)} of {rows}{chance}.{brackets}"


def _annotator_words(manifest: Manifest, survey: Survey) -> str:
    if not survey.annotators[1:].sum():
        return "No annotators' votes are stored with these pairs."
    if not survey.n_compared:
        return "Each pair has the vote of a single annotator, so agreement cannot be measured."
    shares = {name: n / survey.n_compared for name, n in survey.n_unanimous.items()}
    words = (
        f"{survey.n_compared:,} kept pairs have two votes or more. All of a pair's annotators agree on the "
        f"text in {in_percent(shares['text'])} and on the picture in {in_percent(shares['image'])} of them."
    )
    if manifest.agreement is None:
        return words
    text, image = (
        UNDEFINED if value is None else f"{value:.3f}"
        for value in (manifest.agreement.text, manifest.agreement.image)
    )
    return f"{words} Krippendorff’s alpha over all annotated rows: text {text}, picture {image}."


def _spread(counts: Counts, unit: str) -> str:
    if not counts.any():
        return ""
    lowest, low, middle, high, highest = percentiles(counts)
    if lowest == highest:
        return f"All have {lowest:,} {unit}."
    return (
        f"The median is {middle:,} {unit}; 90% lie between {low:,} and {high:,}, all between "
        f"{lowest:,} and {highest:,}."
    )


def _origins(survey: Survey, kept: int) -> list[tuple[str, list[Bar], str]]:
    """Title, bars and words of each chart on where the pairs come from."""
    origins = [_origin("Sources", survey.sources, kept), _origin("Licences", survey.licenses, kept)]
    if not survey.queries:
        return [*origins, ("Queries", [], "No pair comes from a query.")]
    title, bars, words = _origin("Queries", survey.queries, kept)
    sizes = sorted(survey.queries.values())
    spread = f"{len(sizes):,} queries gave between {sizes[0]:,} and {sizes[-1]:,} pairs each."
    origins.append((title, bars, f"{spread} {words}"))
    if survey.sentiments:
        ranges = ("below -1", "-1 to 0", "0 to 1", "1 and above")
        n_pairs = dict.fromkeys(ranges, 0)
        for query, score in survey.sentiments.items():
            n_pairs[ranges[int(np.digitize(score, (-1, 0, 1)))]] += survey.queries[query]
        words = "Pairs by the sentiment score of their query."
        origins.append(("Scores of the queries", count_bars(n_pairs.items(), kept), words))
    return origins


def _origin(title: str, counts: Counter[str], kept: int) -> tuple[str, list[Bar], str]:
    if set(counts) <= {NOT_STATED}:
        return title, [], "None is stated."
    listed, words = counts.most_common(N_LISTED), ""
    if len(counts) > N_LISTED:
        rest = counts.total() - sum(n for _, n in listed)
        words = f"The {N_LISTED} most frequent of {len(counts):,}; the others have {rest:,} pairs."
    return title, count_bars([(shown(name), n) for name, n in listed], kept), words
