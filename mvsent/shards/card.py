"""The dataset card `README.md`, for people and for Hugging Face `datasets`."""

import json
import re
from collections import Counter
from collections.abc import Mapping

from mvsent.shards.manifest import Manifest
from mvsent.shards.manifest_notes import gaps
from mvsent.shards.schema import card_features
from mvsent.shards.shown_settings import shown_settings
from mvsent.shards.terms import joint_terms
from mvsent.sources.flickr_licenses import ADDRESSES

MAX_CHARACTERS = 100
"""Maximum length of untrusted text in the card, in characters."""
MAX_LINE = 300
"""The same for a sentence that quotes such texts."""

_LOADING = """```python
import datasets

datasets.load_dataset(FOLDER)  # this folder: decoded images, named labels
```"""


def card(manifest: Manifest, licenses: Mapping[str, int], n_watermarked: int = 0) -> str:
    """The text of the card.

    Args:
        licenses: number of pictures by licence, if known.
        n_watermarked: number of pictures with a watermark, as far as known.
    """
    funnel = manifest.funnel
    rows = {"input": funnel.input, "kept": funnel.kept}
    rows |= {f"dropped: {reason}": n for reason, n in funnel.dropped.items()}
    settings = {name: _neutral(text, MAX_LINE) for name, text in shown_settings(manifest).items()}
    labels = dict(manifest.labels)
    if manifest.n_unlabelled:
        labels["no label"] = manifest.n_unlabelled
    parts = [
        _front_matter(manifest),
        f"# {_neutral(manifest.name)}",
        f"Pairs of image and text with a sentiment, written by mvsent {manifest.mvsent_version}.",
        _LOADING,
        "## Labels\n\n" + _table(("label", "pairs"), labels),
    ]
    if "queries" in manifest.settings:
        parts.append(
            "Labels are weak: each is the sign of the score of the query that found the picture (columns\n"
            "`query`, `query_sentiment`), not a judgement of the picture. There were "
            f"{manifest.settings['queries']} queries."
        )
    parts += [
        "## Funnel\n\n" + _table(("rows", "number"), rows),
        "Every dropped row and its reason is in `rejected.parquet`.",
        "## Settings\n\n" + _table(("setting", "value"), settings),
    ]
    if lines := gaps(manifest.notes):
        parts.append(
            "## Gaps of the search\n\n" + "\n".join(f"- {_neutral(line, MAX_LINE)}" for line in lines)
        )
    if licenses:
        counts: Counter[str] = Counter()  # names that become equal are added up
        for name in sorted(licenses):
            counts[_neutral(name)] += licenses[name]
        parts.append("## Licences\n\n" + _table(("licence", "pairs"), counts))
        known = [f"- {name}: <{ADDRESSES[name]}>" for name in sorted(licenses) if name in ADDRESSES]
        if known:
            parts.append("\n".join(known))
    if n_watermarked:
        parts.append(f"{n_watermarked} pictures have a watermark (column `watermarked`).")
    terms = joint_terms(manifest.sources)
    if terms.text:
        parts.append("## Terms\n\n" + terms.text)
    parts.append(f"## Citation\n\n```bibtex\n{terms.citation}\n```")
    return "\n\n".join(parts) + "\n"


def _front_matter(manifest: Manifest) -> str:
    """YAML by which `datasets` loads the pairs only (not rejected.parquet) and names the labels."""
    # JSON is YAML: quoted by it, no name can end a value.
    columns = card_features(manifest.schema_version, manifest.extra_columns)
    features = "\n".join(f"  - {json.dumps(column)}" for column in columns)
    url, license = joint_terms(manifest.sources).url, "license: unknown"
    if url:  # no source has one of the licences that Hugging Face lists
        license = f"license: other\nlicense_name: terms-of-the-source\nlicense_link: {url}"
    return f"""---
pretty_name: {json.dumps(manifest.name)}
{license}
size_categories:
- {_size_category(manifest.funnel.kept)}
task_categories:
- image-classification
- text-classification
tags:
- multimodal
- sentiment-analysis
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
dataset_info:
  features:
{features}
---"""


def _size_category(n_rows: int) -> str:
    """Hugging Face's category for a number of rows.

    >>> _size_category(999), _size_category(1000), _size_category(4511)
    ('n<1K', '1K<n<10K', '1K<n<10K')
    """
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if n_rows < bound), "1M<n<10M")


def _table(header: tuple[str, str], rows: Mapping[str, int] | Mapping[str, str]) -> str:
    lines = [f"| {header[0]} | {header[1]} |", "|---|---:|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(lines)


def _neutral(text: str, length: int = MAX_CHARACTERS) -> str:
    """Escape untrusted text for Markdown: no links, pictures, markup or table cells.

    >>> _neutral("[a](b) | <c>")
    '\\\\[a\\\\]\\\\(b\\\\) \\\\| \\\\<c\\\\>'
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([][()!`*_~&<>|\\])", r"\\\1", plain[:length])
