"""The page of an evaluation: one file without scripts or external links. Every value is escaped."""

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from mvsent.report.document import environment
from mvsent.report.results import page_tables, result_notes, result_title

CAPTIONS = {
    "roc": "ROC curves, each class against the rest. Line: mean over folds; band: ± one standard deviation.",
    "prc": "Precision-recall curves, each class against the rest. Line: mean over folds; band: ± one "
    "standard deviation; thin line: chance.",
    "confusion": "Confusion matrix over all test folds: share of each true class, and number of pairs. A "
    "pair that several folds test counts once, divided among their answers.",
    "curves": "Training curves: (a) loss, (b) accuracy. Thin: a fold; thick: their mean ± one standard "
    "deviation while every fold was training; dot: the epoch whose network was kept.",
}


def render_page(document: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """Render the HTML of a `metrics.json`; `figures` are its `<svg>` elements by name."""
    return (
        environment()
        .get_template("evaluation.html")
        .render(
            title=result_title(document),
            document=document,
            notes=result_notes(document),
            figures=[(Markup(own_ids(svg, name)), CAPTIONS[name]) for name, svg in figures.items()],  # noqa: S704
            **page_tables(document),
        )
    )


def own_ids(svg: str, prefix: str) -> str:
    """Prefix every id of `svg`, and every reference to one, so that the figures of a page do not collide.

    >>> own_ids('<g id="a"><use href="#a" clip-path="url(#c)"/></g>', "roc")
    '<g id="roc-a"><use href="#roc-a" clip-path="url(#roc-c)"/></g>'
    """
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
