"""What became of every input row, and how many of each label came out, as text or as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvsent.curate.table_one import PAPER_TABLE_I
from mvsent.pairs import LABEL_NAMES
from mvsent.report.tables import UNDEFINED, aligned
from mvsent.shards.manifest import Manifest


def funnel_document(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The manifest as `--json` prints it, with the folder it lies in."""
    return {"folder": str(folder), **json.loads(manifest.to_json())}


def render_funnel(folder: Path, manifest: Manifest) -> str:
    """The dataset's funnel, its label counts beside the paper's Table I, and its annotators' agreement."""
    parts = [f"{manifest.name} → {folder}", _funnel(manifest), _labels(manifest)]
    if manifest.agreement is not None and manifest.agreement != type(manifest.agreement)(
        text=None, image=None
    ):
        text, image = (_alpha(value) for value in (manifest.agreement.text, manifest.agreement.image))
        parts.append(f"Agreement between annotators (Krippendorff's alpha): text {text}, picture {image}")
    return "\n\n".join(parts)


def render_annotations(counts: Mapping[str, int]) -> str:
    """How many annotations counted, and why the others did not.

    >>> render_annotations({"counted": 5, "skipped": 2})
    'Annotations: 5 of 7 counted (2 skipped)'
    """
    others = ", ".join(f"{n} {reason}" for reason, n in counts.items() if reason != "counted")
    told = f"Annotations: {counts['counted']} of {sum(counts.values())} counted"
    return f"{told} ({others})" if others else told


def _funnel(manifest: Manifest) -> str:
    funnel = manifest.funnel
    dropped = sorted(funnel.dropped.items(), key=lambda item: -item[1])
    rows = [("input", funnel.input), *((f"- {reason}", n) for reason, n in dropped), ("kept", funnel.kept)]
    return aligned(("rows", "count"), [(name, str(n)) for name, n in rows])


def _labels(manifest: Manifest) -> str:
    paper = PAPER_TABLE_I.get(manifest.name, {})
    rows = [(name, str(manifest.labels.get(name, 0))) for name in LABEL_NAMES]
    rows.append(("total", str(manifest.funnel.kept)))
    if not paper:
        return aligned(("label", "rows"), rows)
    known = [str(paper[name]) for name in LABEL_NAMES] + [str(sum(paper.values()))]
    return aligned(
        ("label", "rows", "paper, Table I"), [(*row, k) for row, k in zip(rows, known, strict=True)]
    )


def _alpha(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"
