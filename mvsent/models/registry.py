"""The registered models, each with its citation, its published numbers, and the fidelity of this version."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal

from pydantic import ValidationError
from torch import nn

import mvsent.models
from mvsent.errors import UsageError, did_you_mean
from mvsent.models.batch import Settled, Sizes, Solved
from mvsent.setting import Settings


@dataclass(frozen=True)
class Published:
    """Numbers printed in a paper, in percent; None if it prints only the other one."""

    accuracy: float | None = None
    f1: float | None = None


@dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained, where the user does not say otherwise.

    Attributes:
        source: where it is from: the paper, its authors' code, or the rows that chose it.
        settings: settings of `train` → values.
        options: options of the model → values.
    """

    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelCard:
    """Description of a model, which a reader needs to interpret its results.

    Attributes:
        name: value of `--model`.
        citation: authors, title, venue, year.
        url: address of the paper.
        fidelity: `exact` (the paper leaves nothing open), `reconstructed` (gaps filled by stated choices) or
            `substitute` (a part is replaced by something else).
        fidelity_note: the reason, in one sentence.
        reads: inputs that the model requires.
        may_read: inputs that it uses if the dataset has them.
        reads_with: (option, value) → input that the model requires with this option.
        options: the settings of `--option KEY=VALUE`.
        published: dataset name → numbers of the paper that introduced it, or that compared with it.
        tables: tables of the DMLANet paper that list it: 2 (MVSA), 3 (Flickr, Getty), 4.
        ablations: name → options, each of which removes one part.
        published_ablations: ablation → dataset name → numbers.
        kind: `paper`, a `baseline` that no paper claims, or `ours`.
        unpublished_note: one sentence on why a paper's model has no published numbers here.
        paper_recipe: as its authors publish it; None if they do not, or the model is not of a paper.
        tuned_recipe: as validation rows chose it among those of `benchmarks/recipes.py`; None if no choice
            was made, as for a model that is solved.
    """

    name: str
    citation: str
    url: str
    fidelity: Literal["exact", "reconstructed", "substitute"]
    fidelity_note: str
    reads: frozenset[str]
    options: type[Settings]
    may_read: frozenset[str] = frozenset()
    reads_with: dict[tuple[str, str], str] = field(default_factory=dict)
    published: dict[str, Published] = field(default_factory=dict)
    tables: frozenset[int] = frozenset()
    ablations: dict[str, dict[str, str]] = field(default_factory=dict)
    published_ablations: dict[str, dict[str, Published]] = field(default_factory=dict)
    kind: Literal["paper", "baseline", "ours"] = "paper"
    unpublished_note: str = ""
    paper_recipe: TrainingRecipe | None = None
    tuned_recipe: TrainingRecipe | None = None


Network = type[nn.Module]
_MODELS: dict[str, tuple[ModelCard, Network]] = {}


def register(card: ModelCard) -> Callable[[Network], Network]:
    """Class decorator: register the network as `card.name`; it is built as `cls(sizes, options)`."""

    def add(network: Network) -> Network:
        _MODELS[card.name] = (card, network)
        return network

    return add


def names() -> list[str]:
    """Names of the registered models, sorted."""
    _import_all()
    return sorted(_MODELS)


def card(name: str) -> ModelCard:
    """The card of model `name`. Raises: UsageError listing the known models."""
    _import_all()
    if name not in _MODELS:
        known = f"Known are: {', '.join(sorted(_MODELS))}"
        raise UsageError(f"no model is called {name!r}", did_you_mean(name, _MODELS) + known)
    return _MODELS[name][0]


def options(name: str, given: dict[str, Any]) -> Settings:
    """The options of model `name`, with defaults. Raises: UsageError naming the invalid option."""
    kind = card(name).options
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        unknown = first["type"] == "extra_forbidden"
        problem = "unknown option" if unknown else first["msg"].lower()
        near = did_you_mean(key, kind.model_fields) if unknown else ""
        known = ", ".join(f"{k}={v.default}" for k, v in kind.model_fields.items())
        step = f"{near}{name} knows (with defaults): {known}"
        raise UsageError(f"--option {key}: {problem}", step) from None


def published(name: str, given: dict[str, Any]) -> dict[str, Published]:
    """Dataset name → published numbers of model `name` with these options; those of an ablation, or none."""
    found = card(name)
    taken_away = [each for each, taken in found.ablations.items() if taken.items() <= given.items()]
    return found.published_ablations.get(taken_away[0], {}) if taken_away else found.published


def reads(name: str, given: dict[str, Any]) -> frozenset[str]:
    """The inputs that model `name` requires with these options."""
    chosen, found = options(name, given), card(name)
    more = {what for (key, value), what in found.reads_with.items() if getattr(chosen, key) == value}
    return found.reads | more


def build(name: str, sizes: Sizes, given: dict[str, Any]) -> nn.Module:
    """Build a network of model `name`, initialised from torch's current random state."""
    chosen = options(name, given)
    network: nn.Module = _MODELS[name][1](sizes, chosen)
    return network


def is_solved(name: str) -> bool:
    """Whether model `name` is fitted as a whole instead of by gradient steps."""
    card(name)
    return issubclass(_MODELS[name][1], Solved)


def has_epochs_alone(name: str) -> bool:
    """Whether model `name` is trained by gradient steps, and no part of it is fitted otherwise."""
    card(name)
    return not issubclass(_MODELS[name][1], (Solved, Settled))


def _import_all() -> None:
    # A network registers itself when its module is imported.
    for module in iter_modules(mvsent.models.__path__):
        import_module(f"mvsent.models.{module.name}")
