"""One page about a dataset or a run: the job behind `mvsent report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mvsent.errors import UsageError
from mvsent.pages.page_file import PAGE_MARK, refuse_unless_ours, silent
from mvsent.report.cards import MAX_PICTURE_BYTES, pair_card, read_rows, rejected_cards
from mvsent.report.dataset_page import render_dataset
from mvsent.report.gallery import Gallery, facets, stratified
from mvsent.report.survey import survey
from mvsent.runs.run_folder import CONFIG
from mvsent.shards.atomic import atomic_write
from mvsent.shards.manifest import MANIFEST_FILE
from mvsent.shards.reader import Dataset
from mvsent.storage import make_folder, refuse_no_bucket

GALLERY = 300
MAX_GALLERY = 2000
MAX_BYTES = 20_000_000
"""Limit of a page's size. Texts can be long: a larger page is made again with half the cards."""
_REJECTED_SHARE = 0.25  # maximum share of dropped rows in the gallery of a dataset with pairs

Document = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        kind: dataset or run.
        path: the dataset or run folder.
        out: the page.
        size: size of the page in bytes.
        counts: numbers of rows, and of their cards on the page.
    """

    kind: str
    path: Path
    out: Path
    size: int
    counts: dict[str, int]

    def document(self) -> Document:
        """The report as JSON."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "out": str(self.out),
            "bytes": self.size,
            **self.counts,
        }

    def words(self) -> str:
        """The report as a line or two for the terminal."""
        counts = self.counts
        if self.kind == "dataset":
            shown = (
                f"{counts['shown']} of {counts['rows']} pairs and {counts['rejected_shown']} of "
                f"{counts['rejected']} dropped rows are in the gallery"
            )
        else:
            shown = f"{counts['shown']} of {counts['errors']} errors are in the gallery"
        return f"{self.path} → {self.out} ({self.size / 1e6:.1f} MB)\n{shown}"


def report(
    path: Path,
    out: Path | None = None,
    *,
    dataset: Path | None = None,
    gallery: int = GALLERY,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
) -> Report:
    """Write an HTML page about the dataset or run at `path` to `out`, by default `reports/NAME.html`.

    An earlier report is replaced. A run that was not evaluated since its last fold finished is evaluated
    first.

    Args:
        path: a dataset folder or a run folder.
        out: the file.
        dataset: the present folder of a run's dataset, whose pictures are shown; None: it is looked for.
        gallery: maximum number of cards in the gallery, chosen evenly over labels and reasons.
        seed: seed of the choice.
        overwrite: also replace a file that is not a report.
        quiet: no progress bar.

    Raises:
        UsageError: `path` is neither, `gallery` is out of range, or `dataset` is not that of the run.
        OutputExistsError: `out` is a folder, or another kind of file.
        DatasetError, RunError: the dataset or run cannot be read.
    """
    if not 0 <= gallery <= MAX_GALLERY:
        raise UsageError(f"--gallery {gallery}: out of range", f"Choose from 0 to {MAX_GALLERY}")
    is_dataset = (path / MANIFEST_FILE).is_file()
    if not is_dataset and not (path / CONFIG).is_file():
        refuse_no_bucket(path)
        problem = "neither a dataset nor a run" if path.exists() else "no such folder"
        raise UsageError(
            f"{path}: {problem}",
            f"Name a finished dataset (it has {MANIFEST_FILE}) or a run (it has {CONFIG})",
        )
    if is_dataset and dataset is not None:
        raise UsageError(
            f"--dataset {dataset}: {path} is a dataset itself", "Leave --dataset out, or name a run"
        )
    out = out or Path("reports") / f"{path.resolve().name}.html"
    # Every file contains the empty mark.
    refuse_unless_ours(out, b"" if overwrite else PAGE_MARK, "report", "FILE.html")
    page, counts = _page(path, is_dataset, dataset, gallery, seed, quiet)
    while len(page) > MAX_BYTES and gallery:
        gallery //= 2
        page, counts = _page(path, is_dataset, dataset, gallery, seed, quiet)
    make_folder(out.parent)
    with atomic_write(out) as file:
        file.write(page)
    return Report("dataset" if is_dataset else "run", path, out, len(page), counts)


def _page(
    path: Path, is_dataset: bool, named: Path | None, n_cards: int, seed: int, quiet: bool
) -> tuple[bytes, dict[str, int]]:
    if is_dataset:
        page, counts = dataset_report(path, n_cards, seed, quiet=quiet)
    else:
        from mvsent.pages.report_run import (
            run_report,  # imports torch, which the page of a dataset does not need
        )

        page, counts = run_report(path, n_cards, named, quiet=quiet)
    return page.encode("utf-8", "replace"), counts


def dataset_report(path: Path, n_cards: int, seed: int, *, quiet: bool) -> tuple[str, dict[str, int]]:
    """Render the page of a dataset; return it with the numbers of rows and of those shown.

    Only a batch of rows and the thumbnails are in memory.
    """
    dataset = Dataset.open(path)
    if len(dataset):
        dataset.check_labels()
    n_dropped = dataset.manifest.funnel.n_dropped
    n_rejected = min(n_dropped, int(n_cards * _REJECTED_SHARE) if len(dataset) else n_cards)
    rows = stratified(dataset.labels, n_cards - n_rejected, seed)
    budget = MAX_PICTURE_BYTES // max(len(rows), 1)
    progress = tqdm(read_rows(dataset, rows), total=len(rows), unit="pictures", disable=silent(quiet))
    cards = [pair_card(row, budget) for row in progress]
    rejected = rejected_cards(dataset, n_rejected, seed)
    counts = {
        "rows": len(dataset),
        "shown": len(cards),
        "rejected": n_dropped,
        "rejected_shown": len(rejected),
    }
    words = (
        f"{counts['shown']:,} of {counts['rows']:,} pairs, chosen at random (seed {seed}) and as evenly over "
        f"the labels as possible; {counts['rejected_shown']:,} of {counts['rejected']:,} dropped rows, "
        "evenly over the reasons. The shares here are therefore not those of the dataset."
    )
    if counts["shown"] == counts["rows"] and counts["rejected_shown"] == counts["rejected"]:
        words = f"All {counts['rows']:,} pairs and all {counts['rejected']:,} dropped rows."
    every = [*cards, *rejected]
    titles = {"label": "Label", "query": "Query", "reason": "Kept, or dropped because"}
    gallery = Gallery(every, facets(every, titles), words)
    return render_dataset(dataset.manifest, survey(dataset), gallery), counts
