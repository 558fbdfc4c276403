"""Show what a network looked at: the job behind `mvsent explain`."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mvsent import __version__
from mvsent.curate.images import opened_image, to_rgb
from mvsent.errors import DatasetError, InputError, OutputExistsError, RunError, UsageError
from mvsent.features.vocabulary import tokenize
from mvsent.inference.model import Model, clean, load
from mvsent.learn.attribution import faithfulness, grad_cam, shuffled, without_regions, without_words
from mvsent.learn.batches import Examples
from mvsent.models.batch import Batch, Output
from mvsent.pages.page_file import PAGE_MARK, has_mark
from mvsent.pairs import LABEL_NAMES, Label, Reason, Rejection
from mvsent.report import plots
from mvsent.report.cards import read_rows
from mvsent.report.explain_page import render_explanations
from mvsent.report.overlays import Explained, paper_figure, spread
from mvsent.runs.inputs.pictures import MAX_BYTES, MAX_PIXELS, ImageLike, read_picture
from mvsent.runs.inputs.setup import targets
from mvsent.runs.predictions import read_predictions
from mvsent.runs.run_folder import PREDICTIONS, RunFolder
from mvsent.runs.trial import own_dataset
from mvsent.shards.atomic import atomic_write
from mvsent.shards.reader import Dataset
from mvsent.storage import entries, make_folder

log = logging.getLogger("mvsent")

FOLDER, PAGE, DOCUMENT = "explain", "index.html", "explain.json"
MAX_PAIRS = 60
"""Shown at most: a figure has a row a pair, and no drawing may be higher than 65,536 pixels."""
CLASS_ACTIVATION = "class activation"
_MAPS = {"spatial": "spatial attention", "regions": "region attention"}
_KINDS = ("correct positive", "correct negative", "error")
_GIVEN = "given"
_OURS = {PAGE, DOCUMENT} | {
    f"{kind.replace(' ', '-')}.{ending}" for kind in (*_KINDS, _GIVEN) for ending in ("png", "svg")
}
_SHOWN_SIDE = 640  # pixels of a picture's longer side, as it is shown
_BATCH = 32

Document = dict[str, Any]


@dataclass(frozen=True)
class Explanation:
    """What was written: `explain.json`, `index.html` and the figures, each as PNG and SVG."""

    folder: Path
    document: Document
    figures: tuple[Path, ...]


@dataclass(frozen=True)
class Pick:
    """A pair to explain: `kind` says why it was picked, `gold` what the dataset calls it; `text` is clean."""

    id: str
    kind: str
    image: ImageLike | None
    text: str
    gold: str = ""


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
    """Pairs that the run's network got right and wrong lie in `RUN/explain/`, each with what it looked at.

    Args:
        run_path: the run folder.
        n: pairs to show: as many correct positive as correct negative ones at random, and the surest errors.
        fold: whose network; None: the first finished one.
        dataset: the folder of another dataset to choose from; None: the fold's test rows.
        measured: rows whose mean says whether the weights are faithful; 0: not measured.
        seed: of the choice.
        out: another folder to write to.
        device: where to compute.

    Raises:
        UsageError: `n` is below 1 or above `MAX_PAIRS`, a fold is not finished, or the model neither reads
            regions nor has attention. OutputExistsError: where it would write lies something else.
            RunError: also for a dataset with a label that the run never saw. DatasetError, WeightsError: as
            for predictions.
    """
    if not 1 <= n <= MAX_PAIRS:
        raise UsageError(f"-n {n}: out of range", f"Choose from 1 to {MAX_PAIRS}; 6 are two of each kind")
    folder = _free_folder(out or run_path / FOLDER)
    model = _one_fold(run_path, fold, device)
    rows, picks = chosen(model, dataset, n, measured, seed)
    pairs = explain_pairs(model, picks)
    whole = [row for row in rows if row.image is not None and row.text.strip()]
    orders = measure(model, whole) if whole else {}
    found = {"rows": len(whole), "orders": orders} if orders else {}
    name = f"fold {model.folds[0]}"
    where = dataset.name if dataset else model.run.resolved.dataset_name
    lead = (
        f"{model.run.settings.model}, {name}, on {'rows' if dataset else 'test rows'} of {where}; seed {seed}"
    )
    return write(folder, model, pairs, found, lead)


def explain_pair(
    run_path: Path,
    image: Path | None,
    text: str | None,
    *,
    fold: int | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> Explanation:
    """One picture and text, of which one may be missing.

    Raises: InputError for a picture that cannot be read; UsageError where there is neither, or the model
    looks at nothing of what there is; as `explain_run`.
    """
    cleaned = clean(text)
    if image is None and not cleaned:
        raise UsageError("--image, --text: one of the two has to be there", "Give a picture, a text, or both")
    folder = _free_folder(out or run_path / FOLDER)
    shown_picture(image)  # a bad one is refused before anything is loaded
    model = _one_fold(run_path, fold, device)
    name = image.name if image else "text"
    (pair,) = explain_pairs(model, [Pick(name, _GIVEN, image, cleaned)])
    if not (pair.maps or pair.shades):
        lacks = "--text" if image else "--image"
        raise UsageError(
            f"{model.run.settings.model}: looks at nothing of a pair without {lacks}", "Give that, too"
        )
    lead = f"{model.run.settings.model}, fold {model.folds[0]}"
    return write(folder, model, [pair], {}, lead)


def _free_folder(folder: Path) -> Path:
    """`folder`. Raises: OutputExistsError where it is a file, or holds anything but an explanation."""
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise OutputExistsError(f"{folder}: is a file", "Name a folder: --out FOLDER")
    names = {name for name in entries(folder) if not name.startswith(".")}
    if PAGE in names and not has_mark(folder / PAGE, PAGE_MARK):
        raise OutputExistsError(f"{folder / PAGE}: is no page of mvsent's", "Choose another --out")
    if foreign := sorted(names - _OURS):
        raise OutputExistsError(
            f"{folder}: holds {foreign[0]}, which is no explanation's file", "Choose another --out"
        )
    return folder


def _one_fold(run_path: Path, fold: int | None, device: str) -> Model:
    finished = RunFolder.open(run_path).finished_folds
    return load(run_path, fold if fold is not None or not finished else finished[0], device)


def chosen(
    model: Model, dataset: Path | None, n: int, measured: int, seed: int
) -> tuple[list[Pick], list[Pick]]:
    """Rows to measure on, and rows to show.

    Raises: RunError where the run's dataset has changed; DatasetError where one has no rows.
    """
    opened, rows, y_true, y_prob = _judged(model, dataset, seed)
    random = np.random.default_rng(seed)
    sample = np.sort(random.permutation(len(rows))[:measured])
    shown = pick_rows(y_true, y_prob, n, random)
    wanted = {int(rows[i]): "" for i in sample} | {int(rows[i]): kind for i, kind in shown}
    picks = {}
    for number, row in zip(
        sorted(wanted), read_rows(opened, np.array(sorted(wanted), np.int64)), strict=True
    ):
        image = row["image"]["bytes"] if row["image"] else None
        picks[number] = Pick(row["id"], wanted[number], image, row["text"] or "", LABEL_NAMES[row["label"]])
    return [picks[int(rows[i])] for i in sample], [picks[int(rows[i])] for i, _ in shown]


def _judged(
    model: Model, dataset: Path | None, seed: int
) -> tuple[Dataset, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """A dataset, the numbers of some of its rows, their labels and the probabilities `[n, 3]` they got."""
    if dataset is not None:
        return _answered(model, Dataset.open(dataset), seed)
    opened = own_dataset(model.run)
    path = model.run.fold(model.folds[0]) / PREDICTIONS
    answers = read_predictions(path, model.run.resolved.classes)["test"]
    row_of = {name: i for i, name in enumerate(opened.ids)}
    if not set(answers.ids) <= row_of.keys():
        raise RunError(f"{path}: its test rows are not those of the dataset", "Restore it, or train again")
    return opened, np.array([row_of[name] for name in answers.ids]), answers.y_true, answers.y_prob


def _answered(
    model: Model, dataset: Dataset, seed: int, most: int = 500
) -> tuple[Dataset, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The same of at most `most` rows of another dataset, answered now.

    Raises: DatasetError where there are none that can be answered; RunError for a label the run never saw.
    """
    if len(dataset) == 0:
        raise DatasetError(f"{dataset.folder}: has no rows", "Name a dataset that has some")
    targets(dataset, model.run.resolved.classes)
    rows = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:most])
    read = list(read_rows(dataset, rows))
    answers = model.predict(
        [r["image"]["bytes"] if r["image"] else None for r in read],
        [r["text"] for r in read],
        cleaned=True,
    )
    good = [i for i, error in enumerate(answers.errors) if not error]
    if not good:
        raise DatasetError(f"{dataset.folder}: no row could be judged: {answers.errors[0]}", "Name another")
    y_prob = np.zeros((len(good), len(Label)))
    y_prob[:, model.run.resolved.classes] = answers.probabilities[good]
    return dataset, rows[good], dataset.labels[rows[good]].astype(np.int64), y_prob


def pick_rows(
    y_true: npt.NDArray[np.int64], y_prob: npt.NDArray[np.float64], n: int, random: np.random.Generator
) -> list[tuple[int, str]]:
    """Which rows to show, and as what: a third of each kind, as far as there are any.

    Correct ones are drawn at random, as the paper does; errors are the surest ones, which say most.
    """
    y_pred = y_prob.argmax(axis=1)
    of_kind = {
        "correct positive": random.permutation(
            np.flatnonzero((y_pred == y_true) & (y_true == Label.POSITIVE))
        ),
        "correct negative": random.permutation(
            np.flatnonzero((y_pred == y_true) & (y_true == Label.NEGATIVE))
        ),
    }
    wrong = np.flatnonzero(y_pred != y_true)
    of_kind["error"] = wrong[np.argsort(-y_prob[wrong].max(axis=1), kind="stable")]
    queues = [[(int(row), kind) for row in of_kind[kind]] for kind in _KINDS]
    found: list[tuple[int, str]] = []
    while len(found) < n and any(queues):
        for queue in queues:
            if queue and len(found) < n:
                found.append(queue.pop(0))
    return sorted(found, key=lambda pick: _KINDS.index(pick[1]))


def explain_pairs(model: Model, picks: Sequence[Pick]) -> list[Explained]:
    """What the network of the model's first fold says of each pair, and what it looked at.

    Raises: InputError naming a picture that cannot be read; UsageError for a model that has nothing to show.
    """
    examples = model.examples([pick.image for pick in picks], [pick.text for pick in picks], cleaned=True)
    outputs = [(batch, *looked_at(model, batch)) for batch in model.batches(examples, _BATCH)]
    explained: list[Explained] = []
    for batch, output, maps in outputs:
        for i in range(len(output.logits)):
            explained.append(_explained(model, picks[len(explained)], batch, output, maps, i))
    return explained


def looked_at(model: Model, batch: Batch) -> tuple[Output, dict[str, Tensor]]:
    """The network's output, and its maps `[B, H, W]` by name, class activation first."""
    network = model.network()
    with torch.no_grad():
        output: Output = network(batch)
    maps = {}
    if batch.regions is not None:
        maps[CLASS_ACTIVATION] = grad_cam(network, batch, output.logits.argmax(dim=1))
    maps |= {title: output.attention[key] for key, title in _MAPS.items() if key in output.attention}
    if not maps and "words" not in output.attention:
        raise UsageError(
            f"{model.run.settings.model}: has no attention and reads no regions, so there is nothing to show",
            "mvsent models says what each one reads",
        )
    return output, maps


def _explained(
    model: Model, pick: Pick, batch: Batch, output: Output, maps: dict[str, Tensor], i: int
) -> Explained:
    words = words_as_read(model, pick.text)
    picture = shown_picture(pick.image, model.max_pixels)
    shades = {}
    if "words" in output.attention and pick.text.strip():
        shades["semantic attention"] = output.attention["words"][i, : len(words)].float().cpu().numpy()
    probabilities = torch.softmax(output.logits[i].float(), dim=0).cpu().tolist()
    fusion = output.attention.get("fusion")
    return Explained(
        id=pick.id,
        kind=pick.kind,
        picture=picture,
        words=words,
        maps={name: spread(grid[i].float().cpu().numpy()) for name, grid in maps.items()} if picture else {},
        shades=shades,
        text_share=None if fusion is None else float(fusion[i, 0]),
        probabilities=dict(zip(model.classes, probabilities, strict=True)),
        gold=pick.gold,
    )


def words_as_read(model: Model, text: str) -> list[str]:
    """The words, or a transformer's pieces of words, that the weights are of."""
    encoder, max_words = model.reader.encoder, model.run.resolved.max_words
    if not text.strip():
        return []
    if encoder is not None:
        return encoder.pieces(text, model.reader.setup.max_tokens)
    return tokenize(text)[:max_words] if max_words else text.split()


def shown_picture(image: ImageLike | None, max_pixels: int = MAX_PIXELS) -> Image.Image | None:
    """The picture in RGB, no larger than a page needs. Raises: InputError for one that cannot be read."""
    if image is None:
        return None
    if isinstance(image, Image.Image):
        opened = image
    else:
        data = image if isinstance(image, bytes) else read_picture(Path(image))
        found = opened_image(data, max_pixels=max_pixels, max_bytes=MAX_BYTES)
        if isinstance(found, Rejection):
            raise _bad_picture(image, f"{found.reason}: {found.detail}")
        opened = found
    try:
        small = to_rgb(opened)
        small.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.LANCZOS)
    except Exception as error:  # what follows a sound header may be anything
        raise _bad_picture(image, f"{Reason.IMAGE_CORRUPT}: {type(error).__name__}: {error}") from None
    return small


def _bad_picture(image: ImageLike, problem: str) -> InputError:
    name = "picture" if isinstance(image, bytes | Image.Image) else str(image)
    return InputError(f"{name}: {problem}", "Leave it out, or give another")


def measure(model: Model, picks: Sequence[Pick]) -> dict[str, dict[str, float]]:
    """Deletion and insertion of each order of regions and words, and of chance, over the rows; by name.

    `picks` are rows with a picture and a text.
    """
    examples: Examples = model.examples(
        [pick.image for pick in picks], [pick.text for pick in picks], cleaned=True
    )
    total: dict[str, list[tuple[int, float, float]]] = {}
    for number, batch in enumerate(model.batches(examples, _BATCH)):
        output, maps = looked_at(model, batch)
        orders: dict[str, tuple[Tensor, Callable[[Batch, Tensor], Batch]]] = {
            name: (grid.flatten(1), without_regions)
            for name, grid in maps.items()
            if batch.regions is not None
        }
        if maps and batch.regions is not None:
            orders["regions by chance"] = (
                shuffled(next(iter(maps.values())).flatten(1), number),
                without_regions,
            )
        if "words" in output.attention and (batch.words is not None or batch.word_vectors is not None):
            weights = output.attention["words"].masked_fill(~_mask(batch), -1)
            orders["semantic attention"] = (weights, without_words)
            orders["words by chance"] = (shuffled(weights, number), without_words)
        for name, (importance, without) in orders.items():
            found = faithfulness(model.network(), batch, importance, without)
            total.setdefault(name, []).append((len(importance), found.deletion, found.insertion))
    return {
        name: {"deletion": _mean(parts, 1), "insertion": _mean(parts, 2)} for name, parts in total.items()
    }


def _mask(batch: Batch) -> Tensor:
    assert batch.word_mask is not None
    return batch.word_mask


def _mean(parts: Sequence[tuple[int, float, float]], column: int) -> float:
    return sum(part[0] * part[column] for part in parts) / sum(part[0] for part in parts)


def write(folder: Path, model: Model, pairs: Sequence[Explained], found: Document, lead: str) -> Explanation:
    """Page, figures and, vouching for them, `explain.json` are in `folder`, and none of an earlier one."""
    make_folder(folder)
    for name in (DOCUMENT, *_OURS - {DOCUMENT}):
        (folder / name).unlink(missing_ok=True)
    figures: list[Path] = []
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        of_kind = [pair for pair in pairs if pair.kind == kind]
        with warnings.catch_warnings(action="ignore"):  # strangers write in scripts that the font lacks
            figures += plots.save_figure(paper_figure(of_kind), folder, kind.replace(" ", "-"))
    page = render_explanations(f"{model.run.path.resolve().name}, what it looked at", lead, pairs, found)
    with atomic_write(folder / PAGE) as file:
        file.write(page.encode())
    document = {
        "mvsent_version": __version__,
        "run": model.run.path.resolve().name,
        "model": model.run.settings.model,
        "fold": model.folds[0],
        "pairs": [_as_json(pair) for pair in pairs],
        "faithfulness": found,
    }
    with atomic_write(folder / DOCUMENT) as file:
        file.write(json.dumps(document, indent=2, allow_nan=False).encode())
    return Explanation(folder, document, tuple(figures))


def _as_json(pair: Explained) -> Document:
    fields = asdict(pair) | {"picture": pair.picture is not None, "predicted": pair.predicted}
    for name in ("maps", "shades"):
        fields[name] = {key: np.round(values, 4).tolist() for key, values in fields[name].items()}
    return fields
