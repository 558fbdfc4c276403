"""The page of a run: the results of its evaluation, and its most confident errors."""

import base64
from collections.abc import Mapping
from typing import Any

from mvsent.learn.metrics import headlines
from mvsent.report.document import render_document
from mvsent.report.gallery import MAX_TERMS, Gallery, shown
from mvsent.report.page import CAPTIONS
from mvsent.report.results import page_tables, result_notes, result_title
from mvsent.report.tables import percent

_TILES = ("accuracy", "f1_weighted", "f1_macro", "roc_auc_macro")


def render_run(document: Mapping[str, Any], figures: Mapping[str, str], gallery: Gallery) -> str:
    """Render the HTML of a run's report.

    Args:
        document: a `metrics.json`.
        figures: the evaluation's figures, SVG text by name.
        gallery: the most confident errors.
    """
    drawn = []
    for name, svg in figures.items():
        # An image of its own, as the content security policy forbids style elements inside the page.
        uri = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
        drawn.append((name, uri, _alt(name, document), CAPTIONS[name]))
    options = "".join(f", {key}={value}" for key, value in document["options"].items())
    metrics, titles = document["metrics"], headlines()
    return render_document(
        "run.html",
        {
            "title": document["run"],
            "lead": result_title(document),
            "sections": [
                ("results", "Results"),
                *([("pictures", "Curves and confusion")] if drawn else []),
                ("folds", "Folds"),
                ("errors", "Most confident errors"),
                ("settings", "Where the numbers come from"),
            ],
            "notes": [f"{note}." for note in result_notes(document)],
            "tiles": [(f"{titles[key].heading(key)}, %", percent(metrics[key]["mean"])) for key in _TILES],
            "figures": drawn,
            "gallery": gallery,
            "terms": shown(gallery.terms, MAX_TERMS),
            "settings": [
                ("model", f"{document['model']} ({document['fidelity']}){options}"),
                ("dataset", f"{shown(document['dataset'])}, sha256 {document['dataset_sha256']}"),
                ("split", f"{document['protocol']}, sha256 {document['split_sha256']}"),
                ("seed", ", ".join(map(str, document["seeds"]))),
                ("mvsent", document["mvsent_version"]),
            ],
            **page_tables(document),
        },
    )


def _alt(name: str, document: Mapping[str, Any]) -> str:
    """The alternative text of a figure, with its main numbers."""
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
