"""`README.md` of a dataset: what it holds, for people and for Hugging Face `datasets`."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mvsent.shards.manifest import Manifest
from mvsent.shards.schema import card_features

MAX_CHARACTERS = 100
"""What the card repeats of a stranger's words."""

_TERMS = {
    "mvsa": """Texts and pictures are tweets of MVSA and belong to their authors. MVSA is given out for
research: ask its authors for a copy instead of passing this one on, and delete what a tweet's author
deletes.""",
    "flickr": """This product uses the Flickr API but is not endorsed or certified by SmugMug, Inc. Each
picture keeps its owner's licence, given in the column `license`; remove what its owner removes, as
`mvsent refresh` does.""",
    "getty": """Pictures and captions belong to Getty Images and its contributors. Its licence restricts
machine-learning use: read your agreement before you train on them, and do not pass them on. Pictures may
carry a watermark. Unless a lexicon was given, the keywords are not the paper's but a reconstruction.""",
}

_LOADING = """```python
import datasets

datasets.load_dataset(FOLDER)  # this folder: decoded images, named labels
```"""


def card(manifest: Manifest, licenses: Mapping[str, int]) -> str:
    """The text of the card. `licenses` counts the pictures under each licence, if any is known."""
    parts = [
        _front_matter(manifest),
        f"# {_neutral(manifest.name)}",
        f"Pairs of image and text with a sentiment, written by mvsent {manifest.mvsent_version}.",
        _LOADING,
        "## Labels\n\n" + _labels(manifest),
        "## Where the rows went\n\n" + _funnel(manifest),
    ]
    parts.append("## Settings\n\n" + _table(("setting", "value"), _settings(manifest.settings)))
    if licenses:
        parts.append("## Licences\n\n" + _table(("licence", "pairs"), _neutral_counts(licenses)))
    if terms := _terms(manifest.name):
        parts.append("## Terms\n\n" + terms)
    return "\n\n".join(parts) + "\n"


def _labels(manifest: Manifest) -> str:
    table = _table(("label", "pairs"), manifest.labels)
    if "queries" not in manifest.settings:
        return table
    return f"""{table}

Labels are weak: each is the sign of the score of the query that found the picture (columns `query`,
`query_sentiment`), and not what anyone saw in it. {manifest.settings["queries"]} queries were asked."""


def _settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings that were set to something, as text."""
    return {
        name: _neutral(", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in settings.items()
        if value not in ("", None, [])
    }


def _front_matter(manifest: Manifest) -> str:
    """YAML that gives `datasets` the pairs alone (without it, rejected.parquet too) and names the labels."""
    features = "\n".join(f"  - {json.dumps(feature)}" for feature in card_features())
    return f"""---
pretty_name: {json.dumps(manifest.name)}
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


def _funnel(manifest: Manifest) -> str:
    funnel = manifest.funnel
    rows = {"input": funnel.input, "kept": funnel.kept}
    rows |= {f"dropped: {reason}": n for reason, n in funnel.dropped.items()}
    return _table(("rows", "number"), rows) + "\n\nEvery dropped row and its reason is in `rejected.parquet`."


def _table(header: tuple[str, str], rows: Mapping[str, int | str]) -> str:
    lines = [f"| {header[0]} | {header[1]} |", "|---|---:|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(lines)


def _neutral_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts by neutral names, in their order; names that become the same are counted together."""
    found: Counter[str] = Counter()
    for name in sorted(counts):
        found[_neutral(name)] += counts[name]
    return found


def _neutral(text: str) -> str:
    """`text` from strangers as plain words in Markdown: no link, picture, markup or cell of a table.

    >>> _neutral("[a](b) | <c>")
    '\\\\[a\\\\]\\\\(b\\\\) \\\\| \\\\<c\\\\>'
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([][()!`*_~&<>|\\])", r"\\\1", plain[:MAX_CHARACTERS])


def _terms(name: str) -> str:
    return next((terms for source, terms in _TERMS.items() if name.startswith(source)), "")
