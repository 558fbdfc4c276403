"""One page about a dataset or a run, which a person opens and understands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mvsent.errors import UsageError
from mvsent.pages.page_file import PAGE_MARK, refuse_unless_ours, silent
from mvsent.report.cards import MAX_PICTURE_BYTES, pair_card, read_rows, rejected_cards
from mvsent.report.dataset_page import render_dataset
from mvsent.report.gallery import Card, Gallery, facets, stratified
from mvsent.report.survey import survey
from mvsent.runs.run_folder import CONFIG
from mvsent.shards.atomic import atomic_write
from mvsent.shards.manifest import MANIFEST_FILE
from mvsent.shards.reader import Dataset
from mvsent.storage import make_folder, refuse_no_bucket

GALLERY = 300
MAX_GALLERY = 2000
MAX_BYTES = 20_000_000
"""Of a page. What strangers wrote can be long: a page that is larger is made again with half the cards."""
_REJECTED_SHARE = 0.25  # of the gallery, at most, where there are pairs to show

Document = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """Where the page lies, and how much of what it shows.

    Attributes:
        kind: dataset or run.
        path: the folder that it is about.
        out: the page.
        size: bytes of the page.
        counts: rows there are, and cards of them on the page.
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
                f"{counts['rejected']} dropped rows are in its gallery"
            )
        else:
            shown = f"{counts['shown']} of {counts['errors']} errors are in its gallery"
        return f"{self.path} → {self.out} ({self.size / 1e6:.1f} MB)\n{shown}"


def report(
    path: Path,
    out: Path | None = None,
    *,
    gallery: int = GALLERY,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
) -> Report:
    """One HTML file about the dataset or run at `path` lies at `out`, by default `reports/NAME.html`.

    An earlier report is replaced. A run that was not evaluated since its last fold is evaluated first.

    Args:
        path: a dataset folder or a run folder.
        out: the file.
        gallery: cards in the gallery, at most; the choice is even over labels and reasons.
        seed: of the choice.
        overwrite: replace a file that is no report, too.
        quiet: no progress.

    Raises:
        UsageError: `path` is neither, or `gallery` is out of range.
        OutputExistsError: `out` is a folder, or holds something else.
        DatasetError, RunError: what is at `path` cannot be read.
    """
    if not 0 <= gallery <= MAX_GALLERY:
        raise UsageError(f"--gallery {gallery}: out of range", f"Choose from 0 to {MAX_GALLERY}")
    is_dataset = _is_dataset(path)
    out = out or Path("reports") / f"{path.resolve().name}.html"
    refuse_unless_ours(out, b"" if overwrite else PAGE_MARK, "report", "FILE.html")
    page, counts = _page(path, is_dataset, gallery, seed, quiet)
    while len(page) > MAX_BYTES and gallery:
        gallery //= 2
        page, counts = _page(path, is_dataset, gallery, seed, quiet)
    make_folder(out.parent)
    with atomic_write(out) as file:
        file.write(page)
    return Report("dataset" if is_dataset else "run", path, out, len(page), counts)


def _is_dataset(path: Path) -> bool:
    if (path / MANIFEST_FILE).is_file():
        return True
    if (path / CONFIG).is_file():
        return False
    refuse_no_bucket(path)
    problem = "neither a dataset nor a run" if path.exists() else "no such folder"
    raise UsageError(
        f"{path}: {problem}",
        f"Name a finished dataset (it has {MANIFEST_FILE}) or a run (it has {CONFIG})",
    )


def _page(path: Path, is_dataset: bool, n_cards: int, seed: int, quiet: bool) -> tuple[bytes, dict[str, int]]:
    if is_dataset:
        page, counts = dataset_report(path, n_cards, seed, quiet=quiet)
    else:
        from mvsent.pages.report_run import run_report  # brings torch, which a dataset can do without

        page, counts = run_report(path, n_cards, quiet=quiet)
    return page.encode("utf-8", "replace"), counts


def dataset_report(path: Path, n_cards: int, seed: int, *, quiet: bool) -> tuple[str, dict[str, int]]:
    """The page of a dataset, and how much of it is shown.

    No more than a batch of its rows and the thumbnails are in memory.
    """
    dataset = Dataset.open(path)
    if len(dataset):
        dataset.classes  # noqa: B018  raises where a label is none
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
    return render_dataset(dataset.manifest, survey(dataset), _sample(cards, rejected, counts, seed)), counts


def _sample(cards: list[Card], rejected: list[Card], counts: dict[str, int], seed: int) -> Gallery:
    titles = {"label": "Label", "query": "Query", "reason": "Kept, or dropped because"}
    everything = counts["shown"] == counts["rows"] and counts["rejected_shown"] == counts["rejected"]
    words = (
        f"{counts['shown']:,} of {counts['rows']:,} pairs, chosen at random (seed {seed}) and as even over "
        f"the labels as these allow; {counts['rejected_shown']:,} of {counts['rejected']:,} dropped rows, "
        "even over the reasons. So the shares here are not those of the dataset."
    )
    if everything:
        words = f"All {counts['rows']:,} pairs and all {counts['rejected']:,} dropped rows."
    return Gallery([*cards, *rejected], facets([*cards, *rejected], titles), words)
