"""The page of a run: what an evaluation found, and the errors that its networks were surest of."""

import base64
from collections.abc import Mapping
from typing import Any

from mvsent.report.document import render_document
from mvsent.report.gallery import Gallery, shown
from mvsent.report.page import CAPTIONS, result_tables
from mvsent.report.tables import metric_title, percent, result_notes, result_title

_TILES = ("accuracy", "f1_weighted", "f1_macro", "roc_auc_macro")


def render_run(document: Mapping[str, Any], figures: Mapping[str, str], gallery: Gallery) -> str:
    """The HTML of a run's report.

    Args:
        document: a `metrics.json`.
        figures: the pictures that the evaluation drew, SVG text by name.
        gallery: the most confident errors.
    """
    metrics = document["metrics"]
    drawn = [(name, _svg_uri(svg), _alt(name, document), CAPTIONS[name]) for name, svg in figures.items()]
    return render_document(
        "run.html",
        {
            "title": document["run"],
            "lead": result_title(document),
            "sections": _sections(bool(drawn)),
            "notes": [f"{note}." for note in result_notes(document)],
            "tiles": [(f"{metric_title(name)}, %", percent(metrics[name]["mean"])) for name in _TILES],
            "resamples": document["bootstrap"]["resamples"],
            "figures": drawn,
            "gallery": gallery,
            "settings": _settings(document),
            **result_tables(document),
        },
    )


def _sections(has_figures: bool) -> list[tuple[str, str]]:
    pictures = [("pictures", "Curves and confusion")] if has_figures else []
    others = [
        ("folds", "Folds"),
        ("errors", "Most confident errors"),
        ("settings", "Where the numbers come from"),
    ]
    return [("results", "Results"), *pictures, *others]


def _svg_uri(svg: str) -> str:
    """The picture as an image of its own: the page's policy forbids styles inside the page."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _alt(name: str, document: Mapping[str, Any]) -> str:
    """What a picture says, in words and numbers."""
    metrics, classes = document["metrics"], document["classes"]
    if name in ("roc", "prc"):
        family, title = (
            ("roc_auc", "ROC AUC") if name == "roc" else ("average_precision", "average precision")
        )
        scores = [f"{of} {percent(metrics[f'{family}_{of}']['mean'])}" for of in (*classes, "macro", "micro")]
        return (
            f"{'ROC' if name == 'roc' else 'Precision-recall'} curves. {title}: {', '.join(scores)} percent."
        )
    if name == "confusion":
        recalls = [f"{of} {percent(metrics[f'recall_{of}']['mean'])}" for of in classes]
        return f"Confusion matrix. Share of each true class found: {', '.join(recalls)} percent."
    return "Training curves: loss and accuracy by epoch, of training and validation rows."


def _settings(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    options = "".join(f", {key}={value}" for key, value in document["options"].items())
    return [
        ("model", f"{document['model']} ({document['fidelity']}){options}"),
        ("dataset", f"{shown(document['dataset'])}, sha256 {document['dataset_sha256']}"),
        ("split", f"{document['protocol']}, sha256 {document['split_sha256']}"),
        ("seed", ", ".join(map(str, document["seeds"]))),
        ("mvsent", document["mvsent_version"]),
    ]
