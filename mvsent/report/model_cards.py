"""Model cards as text and as JSON."""

from typing import Any

from mvsent.models.registry import ModelCard, Published

_KINDS = {"paper": "a paper's", "baseline": "baseline", "ours": "mvsent's own"}


def render_card(card: ModelCard) -> str:
    """The lines of `mvsent models` about a model."""
    tables = [f"Table {number}" for number in sorted(card.tables)]
    reads = [", ".join(sorted(card.reads)) or "nothing"]
    reads += [f"uses if there: {', '.join(sorted(card.may_read))}"] if card.may_read else []
    reads += [f"{what} with {key}={value}" for (key, value), what in card.reads_with.items()]
    ablations = []  # the name of the row, the options that take the part away, the published result
    for name, changed in card.ablations.items():
        without = " ".join(f"{key}={value}" for key, value in changed.items())
        published = _published_of(card.published_ablations.get(name, {}))
        ablations.append(f"    {card.name} {name}  ({without})" + (f"  {published}" if published else ""))
    options = [f"{key}={field.default}" for key, field in card.options.model_fields.items()]
    lines = [
        f"{card.name}  ({', '.join([_KINDS[card.kind], card.fidelity, *tables])})",
        f"  {card.citation}",
        f"  {card.fidelity_note}",
        f"  reads      {'; '.join(reads)}",
        *([f"  published  {_published_of(card.published)}"] if card.published else []),
        *([f"  published  none: {card.unpublished_note}"] if card.unpublished_note else []),
        *(["  ablations, in the tables of mvsent benchmark --table 4:", *ablations] if ablations else []),
        *([f"  --option   {' '.join(options)}"] if options else []),
    ]
    return "\n".join(lines)


def _published_of(by_dataset: dict[str, Published]) -> str:
    return "; ".join(f"{name} {_published(numbers)}" for name, numbers in by_dataset.items())


def _published(numbers: Published) -> str:
    """`accuracy 79.47, F1 79.59`, in percent."""
    named = {"accuracy": numbers.accuracy, "F1": numbers.f1}
    return ", ".join(f"{name} {value:.2f}" for name, value in named.items() if value is not None)


def card_document(card: ModelCard) -> dict[str, Any]:
    """The card as JSON can write it."""
    return {
        "name": card.name,
        "citation": card.citation,
        "url": card.url,
        "fidelity": card.fidelity,
        "fidelity_note": card.fidelity_note,
        "kind": card.kind,
        "tables": sorted(card.tables),
        "reads": sorted(card.reads),
        "may_read": sorted(card.may_read),
        "reads_with": {f"{key}={value}": what for (key, value), what in card.reads_with.items()},
        "options": {key: field.default for key, field in card.options.model_fields.items()},
        "published": {name: vars(numbers) for name, numbers in card.published.items()},
        "ablations": card.ablations,
        "published_ablations": {
            ablation: {name: vars(numbers) for name, numbers in by_dataset.items()}
            for ablation, by_dataset in card.published_ablations.items()
        },
        "unpublished_note": card.unpublished_note,
    }
