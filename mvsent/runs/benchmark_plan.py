"""The cells of a benchmark: every system on every dataset by every protocol, each an ordinary run folder."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvsent.config import TrainSettings
from mvsent.datasets.split_files import SplitFiles
from mvsent.errors import RunError, UsageError, did_you_mean
from mvsent.models import registry
from mvsent.models.registry import ModelCard, Published
from mvsent.runs.recipes import with_recipe
from mvsent.runs.run_folder import CONFIG, METRICS, RunFolder
from mvsent.shards.manifest import Manifest
from mvsent.splits import N_FOLDS, PROTOCOLS

TABLES = ("2", "3", "4", "all")


@dataclass(frozen=True)
class System:
    """A row of a table: a model, or a model without one of its parts."""

    card: ModelCard
    ablation: str = ""

    @property
    def name(self) -> str:
        """`dmlanet`, `dmlanet w/o SAtt`."""
        return f"{self.card.name} {self.ablation}".rstrip()

    @property
    def options(self) -> dict[str, str]:
        """The options that remove the part."""
        return self.card.ablations[self.ablation] if self.ablation else {}

    @property
    def published(self) -> dict[str, Published]:
        """Dataset name → published numbers."""
        return registry.published(self.card.name, self.options)


@dataclass(frozen=True)
class Asked:
    """The comparison that a benchmark makes.

    Attributes:
        datasets: dataset folders.
        tables: some of `TABLES`.
        models: the only models to run; empty: those of the tables.
        protocols: how rows are split; replaced by the split files of `common`, if it names some.
        options: model → options, beyond an ablation's own.
        common: settings of every cell, except dataset, model, options and, without split files, protocol.
        out: the output folder.
        against: the reference model of the significance tests.
    """

    datasets: Sequence[Path]
    tables: Sequence[str]
    models: Sequence[str]
    protocols: Sequence[str]
    options: Mapping[str, Mapping[str, str]]
    common: TrainSettings
    out: Path
    against: str

    def systems(self, table: str) -> list[System]:
        """The rows of a table. Raises: UsageError for an unknown model."""
        return systems(table, self.models)


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation, in the run folder `path`."""

    dataset: Manifest
    system: System
    settings: TrainSettings
    path: Path

    @property
    def name(self) -> str:
        """`mvsa-single paper-5x dmlanet w/o SAtt`."""
        return f"{self.dataset.name} {self.protocol} {self.system.name}"

    @property
    def protocol(self) -> str:
        """The name of its split: that of its protocol, or of its split files."""
        files = SplitFiles.of(self.settings)
        return files.name if files else self.settings.protocol

    @property
    def state(self) -> str:
        """`to do`, `begun`, `finished`, or `other settings`."""
        if not (self.path / CONFIG).is_file():
            return "to do"
        if self.changes():
            return "other settings"
        run = RunFolder.open(self.path)
        if not run.is_finished:
            return "begun"
        try:
            judged = [fold["fold"] for fold in self.metrics["folds"]]
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # not evaluated, or damaged
            return "begun"
        return "finished" if judged == run.wanted_folds else "begun"

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        document: dict[str, Any] = json.loads((self.path / METRICS).read_text(encoding="utf-8"))
        return document

    def changes(self) -> list[str]:
        """The differing settings, or the differing rows, of an existing run."""
        if not (self.path / CONFIG).is_file():
            return []
        try:
            run = RunFolder.open(self.path)
        except (RunError, UsageError):
            return ["its configuration cannot be read"]
        ignored = TrainSettings.without_effect()
        asked, there = (s.model_dump(exclude=ignored) for s in (self.settings, run.settings))
        rows = [] if run.resolved.dataset_sha256 == self.dataset.sha256 else ["the dataset's rows"]
        return [*(key for key in asked if asked[key] != there[key]), *rows]


def plan(asked: Asked) -> list[Cell]:
    """The cells of all tables, each once.

    Raises:
        UsageError: a table, model, option or protocol that does not exist, or datasets of the same name.
        DatasetError: a folder without a dataset.
    """
    _check(asked)
    manifests = {folder: Manifest.load(folder) for folder in asked.datasets}
    if len({slug(manifest.name) for manifest in manifests.values()}) < len(asked.datasets):
        raise UsageError(
            "two datasets have the same name, or names that make the same folder",
            "Benchmark them into different --out folders",
        )
    cells: dict[Path, Cell] = {}
    protocols = [asked.common.protocol] if asked.common.split_file else asked.protocols
    for folder, manifest in manifests.items():
        for protocol in protocols:
            for system in (system for table in asked.tables for system in asked.systems(table)):
                cell = make_cell(asked, folder, manifest, protocol, system)
                cells.setdefault(cell.path, cell)
    return list(cells.values())


def make_cell(asked: Asked, folder: Path, manifest: Manifest, protocol: str, system: System) -> Cell:
    """The cell of one system. Raises: UsageError for an option that the model does not have."""
    card = system.card
    # An ablation's own options come last, as they define it.
    options = {**asked.options.get(card.name, {}), **system.options}
    registry.options(card.name, options)  # raises before the first cell is trained
    of_cell = {"dataset": str(folder.resolve()), "model": card.name, "options": options}
    settings = with_recipe(asked.common.model_copy(update={**of_cell, "protocol": protocol}))
    files = SplitFiles.of(settings)
    split = slug(files.name) if files else protocol
    name = f"{slug(system.name)}-s{settings.seed}"
    return Cell(manifest, system, settings, asked.out / slug(manifest.name) / split / name)


def systems(table: str, models: Sequence[str] = ()) -> list[System]:
    """The systems of a table: baselines, then the papers' models, then ours, each by name.

    Tables 2 and 3 have the models that the paper lists there, and those of no paper; `all` has every model.
    Table 4 has models with their ablations. With `models` it has only those.

    >>> [system.name for system in systems("4")]
    ['dmlanet', 'dmlanet w/o SA + CA', 'dmlanet w/o SMAtt', 'dmlanet w/o SAtt']
    """
    cards = [registry.card(name) for name in dict.fromkeys(models or registry.names())]
    kinds = ("baseline", "paper", "ours")
    if not models and table != "all":  # tables 2 and 3 have the baselines and our models, too
        own = [card for card in cards if int(table) in card.tables]
        cards = own if table == "4" else [card for card in cards if card in own or card.kind != "paper"]
    chosen = []
    for card in sorted(cards, key=lambda card: (kinds.index(card.kind), card.name)):
        chosen.append(System(card))
        if table in ("4", "all") and (models or 4 in card.tables):
            chosen += [System(card, ablation) for ablation in card.ablations]
    return chosen


def _check(asked: Asked) -> None:
    if not asked.tables or not asked.protocols:
        raise UsageError(
            "--table, --protocol: at least one has to be named", "Leave them out for the defaults"
        )
    if asked.common.split_file and len(asked.datasets) > 1:
        raise UsageError(
            f"--split-file: is the split of one dataset, not of {len(asked.datasets)}",
            "Benchmark each with its own, into the same --out",
        )
    for protocol in [] if asked.common.split_file else asked.protocols:
        n_folds = N_FOLDS.get(protocol, 0)
        if n_folds and (strange_folds := [fold for fold in asked.common.folds if not 0 <= fold < n_folds]):
            raise UsageError(
                f"--folds: {protocol} has no fold {strange_folds[0]}", f"Choose from 0 to {n_folds - 1}"
            )
    for given, known, what in (
        (asked.tables, TABLES, "--table"),
        (asked.protocols, PROTOCOLS, "--protocol"),
    ):
        if strange := [name for name in given if name not in known]:
            choice = f"Choose from {', '.join(known)}"
            raise UsageError(f"{what}: unknown {strange[0]!r}", did_you_mean(strange[0], known) + choice)
    registry.card(asked.against)
    ran = {system.card.name for table in asked.tables for system in asked.systems(table)}
    for model in asked.options:
        registry.card(model)
        if model not in ran:
            raise UsageError(
                f"--option {model}: is not in this benchmark",
                f"{did_you_mean(model, ran)}It has: {', '.join(sorted(ran))}",
            )


def slug(name: str) -> str:
    """`name` as part of a path: at most 80 characters that every file system accepts.

    >>> slug("dmlanet w/o SA + CA"), slug("MVSA_single")
    ('dmlanet-w-o-SA-CA', 'MVSA_single')
    >>> slug("数据")
    'unnamed'
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:80] or "unnamed"
