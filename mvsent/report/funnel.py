"""The funnel of a dataset and its label counts, as text or as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.pairs import LABEL_NAMES, UNLABELLED
from mvsent.report.tables import UNDEFINED, aligned
from mvsent.shards.manifest import Manifest
from mvsent.shards.rejected import REJECTED_FILE


def funnel_document(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The manifest and its folder, as `--json` prints them."""
    return {"folder": str(folder), **json.loads(manifest.to_json())}


def render_funnel(folder: Path, manifest: Manifest) -> str:
    """Render the funnel, the label counts beside the paper's Table I, the agreement, and where to look on."""
    dropped = sorted(manifest.funnel.dropped.items(), key=lambda item: -item[1])
    rows = [
        ("input", manifest.funnel.input),
        *((f"- {reason}", n) for reason, n in dropped),
        ("kept", manifest.funnel.kept),
    ]
    labels = [manifest.labels.get(name, 0) for name in LABEL_NAMES]
    names = list(LABEL_NAMES)
    if manifest.n_unlabelled > 0:
        names.append(UNLABELLED)
        labels.append(manifest.n_unlabelled)
    columns = [[*names, "total"], [*map(str, labels), str(manifest.funnel.kept)]]
    header = ["label", "rows"]
    if (paper := PAPER_TABLE_I.get(manifest.name)) and len(names) == len(LABEL_NAMES):
        header.append("paper, Table I")
        columns.append([*(str(paper[name]) for name in LABEL_NAMES), str(sum(paper.values()))])
    parts = [
        f"{manifest.name} → {folder}",
        aligned(("rows", "count"), [(name, str(n)) for name, n in rows]),
        aligned(header, list(zip(*columns, strict=True))),
    ]
    alphas = (manifest.agreement.text, manifest.agreement.image) if manifest.agreement else (None, None)
    if alphas != (None, None):
        text, image = (UNDEFINED if alpha is None else f"{alpha:.3f}" for alpha in alphas)
        # Annotators who give a pair one label agree equally on both.
        both = text if text == image else f"text {text}, picture {image}"
        parts.append(f"Agreement between annotators (Krippendorff's alpha): {both}")
    if dropped:
        parts.append(f"Dropped rows, each with its reason: {folder / REJECTED_FILE}")
    return "\n\n".join(parts)


def render_annotations(counts: Mapping[str, int]) -> str:
    """Render the number of annotations that counted, and why the others did not.

    >>> render_annotations({"counted": 5, "skipped": 2})
    'Annotations: 5 of 7 counted (2 skipped)'
    """
    others = ", ".join(f"{n} {reason}" for reason, n in counts.items() if reason != "counted")
    summary = f"Annotations: {counts['counted']} of {sum(counts.values())} counted"
    return f"{summary} ({others})" if others else summary
