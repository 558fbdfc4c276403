"""A network's attention on pairs as a page, figures and JSON: the job behind `mvsent explain`."""

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvsent import __version__
from mvsent.errors import OutputExistsError, UsageError
from mvsent.inference.attended import Pick, explain_pairs, measure, shown_picture
from mvsent.inference.model import Model, clean, load
from mvsent.pages.explain_rows import KINDS, chosen
from mvsent.pages.page_file import PAGE_MARK, has_mark
from mvsent.report import plots
from mvsent.report.explain_page import render_explanations
from mvsent.report.overlays import Explained, paper_figure
from mvsent.runs.run_dataset import is_own, own_dataset
from mvsent.runs.run_folder import RunFolder
from mvsent.shards.atomic import atomic_write
from mvsent.shards.reader import Dataset
from mvsent.shards.terms import joint_terms
from mvsent.storage import entries, make_folder

log = logging.getLogger("mvsent")

FOLDER, PAGE, DOCUMENT = "explain", "index.html", "explain.json"
MAX_PAIRS = 60
"""Maximum number of pairs: a figure has a row for each, and matplotlib draws at most 65,536 pixels high."""
_GIVEN = "given"
_OURS = {PAGE, DOCUMENT} | {
    f"{kind.replace(' ', '-')}.{ending}" for kind in (*KINDS, _GIVEN) for ending in ("png", "svg")
}

Document = dict[str, Any]


@dataclass(frozen=True)
class Explanation:
    """The written files: `explain.json`, `index.html` and the figures, each as PNG and SVG."""

    folder: Path
    document: Document
    figures: tuple[Path, ...]


def explain_run(
    run_path: Path,
    *,
    n: int = 6,
    fold: int | None = None,
    dataset: Path | None = None,
    measured: int = 100,
    seed: int = 0,
    out: Path | None = None,
    device: str = "auto",
) -> Explanation:
    """Explain pairs that the run's network classified correctly and wrongly; write to `RUN/explain/`.

    Args:
        run_path: the run folder.
        n: pairs to show: equal numbers of correct positive and negative ones, at random, and of the most
            confident errors.
        fold: the fold of the network; None: the first finished one.
        dataset: the folder of another dataset to choose from; None, or the run's own, which may have moved:
            the fold's test rows.
        measured: rows for the mean faithfulness of the weights; 0: do not measure.
        seed: seed of the choice.
        out: another folder to write to.
        device: where to compute.

    Raises:
        UsageError: `n` is out of range, a fold is not finished, or the model neither reads regions nor has
            attention.
        OutputExistsError: the output folder contains something else.
        RunError: also for a dataset with a label that the run never saw.
        DatasetError, WeightsError: as for predictions.
    """
    if not 1 <= n <= MAX_PAIRS:
        raise UsageError(f"-n {n}: out of range", f"Choose from 1 to {MAX_PAIRS}; 6 are two of each kind")
    folder = _free_folder(out or run_path / FOLDER)
    model = _one_fold(run_path, fold, device)
    rows, picks = chosen(model, dataset, n, measured, seed)
    pairs = explain_pairs(model, picks)
    whole = [row for row in rows if row.image is not None and row.text.strip()]
    orders = measure(model, whole) if whole else {}
    faithfulness = {"rows": len(whole), "orders": orders} if orders else {}
    rows_of = f"test rows of {model.run.resolved.dataset_name}"
    opened = own_dataset(model.run) if dataset is None else Dataset.open(dataset)
    if dataset is not None and not is_own(model.run, opened):
        rows_of = f"rows of {dataset.name}"
    terms = joint_terms(opened.manifest.sources).text
    lead = f"{model.run.settings.model}, fold {model.folds[0]}, on {rows_of}; seed {seed}"
    return write(folder, model, pairs, faithfulness, lead, terms)


def explain_pair(
    run_path: Path,
    image: Path | None,
    text: str | None,
    *,
    fold: int | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> Explanation:
    """Explain one picture and text, either of which may be absent.

    Raises: InputError for a picture that cannot be read; UsageError if both are absent, or if the
        model has no attention on the given one; also as `explain_run`.
    """
    cleaned = clean(text)
    if image is None and not cleaned:
        raise UsageError("--image, --text: at least one is required", "Give a picture, a text, or both")
    folder = _free_folder(out or run_path / FOLDER)
    shown_picture(image)  # refuses a broken picture before the model is loaded
    model = _one_fold(run_path, fold, device)
    name = image.name if image else "text"
    (pair,) = explain_pairs(model, [Pick(name, _GIVEN, image, cleaned)])
    if not (pair.maps or pair.shades):
        lacks = "--text" if image else "--image"
        raise UsageError(
            f"{model.run.settings.model}: has no attention on a pair without {lacks}", f"Give {lacks}, too"
        )
    lead = f"{model.run.settings.model}, fold {model.folds[0]}"
    return write(folder, model, [pair], {}, lead)


def _free_folder(folder: Path) -> Path:
    """Return `folder`. Raises: OutputExistsError if it is a file, or contains anything but an explanation."""
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise OutputExistsError(f"{folder}: is a file", "Name a folder: --out FOLDER")
    names = {name for name in entries(folder) if not name.startswith(".")}
    if PAGE in names and not has_mark(folder / PAGE, PAGE_MARK):
        raise OutputExistsError(f"{folder / PAGE}: not a page by mvsent", "Choose another --out")
    if foreign := sorted(names - _OURS):
        raise OutputExistsError(
            f"{folder}: contains {foreign[0]}, which mvsent did not write", "Choose another --out"
        )
    return folder


def _one_fold(run_path: Path, fold: int | None, device: str) -> Model:
    finished = RunFolder.open(run_path).finished_folds
    return load(run_path, fold if fold is not None or not finished else finished[0], device)


def write(
    folder: Path,
    model: Model,
    pairs: Sequence[Explained],
    faithfulness: Document,
    lead: str,
    terms: str = "",
) -> Explanation:
    """Write the page, the figures and, last, `explain.json`, replacing an earlier explanation.

    Args:
        terms: of the sources of the pictures.
    """
    make_folder(folder)
    # explain.json is removed first and written last: if it exists, the others belong to it.
    for name in (DOCUMENT, *_OURS - {DOCUMENT}):
        (folder / name).unlink(missing_ok=True)
    figures: list[Path] = []
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        of_kind = [pair for pair in pairs if pair.kind == kind]
        with warnings.catch_warnings(action="ignore"):  # texts use scripts that the font lacks
            figures += plots.save_figure(paper_figure(of_kind), folder, kind.replace(" ", "-"))
    title = f"{model.run.path.resolve().name}: attention"
    page = render_explanations(title, lead, pairs, faithfulness, terms=terms)
    with atomic_write(folder / PAGE) as file:
        file.write(page.encode())
    documents = []
    for pair in pairs:
        fields = asdict(pair) | {"picture": pair.picture is not None, "predicted": pair.predicted}
        for name in ("maps", "shades"):
            fields[name] = {key: np.round(values, 4).tolist() for key, values in fields[name].items()}
        documents.append(fields)
    document = {
        "mvsent_version": __version__,
        "run": model.run.path.resolve().name,
        "model": model.run.settings.model,
        "fold": model.folds[0],
        "pairs": documents,
        "faithfulness": faithfulness,
    }
    with atomic_write(folder / DOCUMENT) as file:
        file.write(json.dumps(document, indent=2, allow_nan=False).encode())
    return Explanation(folder, document, tuple(figures))
