"""Which column of a table is which: named by the user, or found by its usual names."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mvsent.errors import InputError, UsageError, did_you_mean
from mvsent.pairs import PAIR_SCHEMA
from mvsent.sources.table import LINE, TableSettings

ROLES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "image": (
        ("image",),
        ("img", "picture", "photo", "pic"),
        ("file_name", "filename", "file", "path", "image_path", "img_path", "image_file", "image_name"),
        ("url", "image_url", "img_url", "photo_url", "picture_url", "media_url"),
    ),
    "text": (
        ("text",),
        (
            *("tweet", "caption", "description", "sentence", "content", "post", "message", "comment"),
            *("tweet_text", "full_text", "post_text"),
        ),
    ),
    "label": (
        ("label_name",),
        ("label",),
        ("sentiment", "polarity", "class", "target", "gold", "gold_label", "sentiment_label"),
    ),
    "text_label": (("text_label",), ("text_sentiment", "txt_label", "label_text")),
    "image_label": (("image_label",), ("image_sentiment", "img_label", "picture_label", "label_image")),
    "id": (("id",), ("pair_id", "tweet_id", "post_id", "item_id", "sample_id", "photo_id")),
    "annotator": (("annotator", "annotator_id"), ("worker_id", "worker", "rater_id", "rater", "coder")),
}
"""Usual names of columns, those of an earlier tuple first; two of one tuple leave the choice to the user."""

FILLED = ("title", "page_url", "license", "owner")
"""Columns of every dataset that --keep-columns fills, instead of adding columns of these names."""

_NUMBERED = re.compile(r"(?P<role>label|sentiment|text_label|image_label)_?\d+")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that a table's pairs are made of; empty where there is none.

    Attributes:
        label, text_label, image_label: one column for each annotator.
        also: role → other columns with a usual name of that role.
    """

    image: str
    text: str
    id: str = ""
    label: tuple[str, ...] = ()
    text_label: tuple[str, ...] = ()
    image_label: tuple[str, ...] = ()
    annotator: str = ""
    kept: tuple[str, ...] = ()
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every column of labels."""
        return (*self.label, *self.text_label, *self.image_label)

    @property
    def is_of_modalities(self) -> bool:
        """Whether the label of a pair follows from those of its text and its picture."""
        return bool(self.text_label) and not self.label

    @property
    def read(self) -> list[str]:
        """Every column that is read besides the pictures, each once."""
        named = (self.text, self.id, *self.labels, self.annotator, *self.kept)
        return [name for name in dict.fromkeys(named) if name]


def find_columns(names: Sequence[str], settings: TableSettings, where: str) -> Columns:
    """Choose the columns of the table `where`: those of the settings, else by their usual names.

    Raises: UsageError for a named column that is missing; InputError if there is no column for pictures or
        texts, or several that are equally usual.
    """
    _refuse_repeated(names, where)
    also: dict[str, tuple[str, ...]] = {}
    found = {role: _named(role, settings, names, where) for role in ROLES}
    by_user = {role for role, columns in found.items() if columns}
    taken = {name for columns in found.values() for name in columns}
    if settings.id == LINE and LINE not in names:
        found["id"] = ()
    for role in ROLES:
        if role in by_user or (role == "id" and settings.id == LINE):
            continue
        free = [name for name in names if name not in taken]
        found[role], also[role] = _usual(role, free, where)
        taken.update(found[role])
    modalities = ("text_label", "image_label")
    if settings.pairs != "paper":
        _refuse_one_label(found, by_user, settings, names, where)
        found["label"] = ()
    elif found["label"]:
        if by_user & {*modalities} and "label" not in by_user:
            found["label"] = ()  # the user wants a label that follows from the two
        for role in modalities:  # one label a modality is stored, several would be another vote
            found[role] = found[role] if role in by_user or len(found[role]) == 1 else ()
    _refuse_uneven(found, where)
    for role in ("image", "text"):
        if not found[role]:
            raise InputError(
                f"{where}: no column of {'pictures' if role == 'image' else 'texts'}; it has {shown(names)}",
                f"Name it: --{role} COLUMN",
            )
    image, text, id, annotator = (
        next(iter(found[role]), "") for role in ("image", "text", "id", "annotator")
    )
    label, text_label, image_label = (found[role] for role in ("label", *modalities))
    kept = _kept(settings.keep_columns, names, where)
    others = {role: names for role, names in also.items() if names and found[role]}
    return Columns(image, text, id, label, text_label, image_label, annotator, kept, others)


def shown(names: Sequence[str]) -> str:
    """A few of the names of columns, for a message."""
    few = ", ".join(name[:60] for name in names[:12]) or "none"
    return few + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _refuse_repeated(names: Sequence[str], where: str) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{where}: has two columns {twice[:60]!r}", "Rename one of them")


def _named(role: str, settings: TableSettings, names: Sequence[str], where: str) -> tuple[str, ...]:
    """The columns that the settings name for a role."""
    given = getattr(settings, role)
    columns = (given,) if isinstance(given, str) and given else tuple(given)
    if role == "id" and given == LINE and LINE not in names:
        return ()
    return tuple(_existing(column, names, where, role) for column in columns)


def _existing(column: str, names: Sequence[str], where: str, role: str) -> str:
    if column not in names:
        raise UsageError(
            f"--{role.replace('_', '-')} {column}: {where} has no such column, only {shown(names)}",
            did_you_mean(column, names) + "Name one of these",
        )
    return column


def _usual(role: str, names: Sequence[str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The column of a role by its usual names, and the others that have one."""
    plain = {name: re.sub(r"[\s.-]+", "_", name.strip().casefold()) for name in names}
    tiers = [[name for name in names if plain[name] in tier] for tier in ROLES[role]]
    best = next(filter(None, tiers), [])
    if len(best) > 1:
        flag = role.replace("_", "-")
        raise InputError(
            f"{where}: {' and '.join(best)} could both be the {flag}", f"Name one: --{flag} {best[0]}"
        )
    if not best:
        numbered = {name: _NUMBERED.fullmatch(plain[name]) for name in names}
        wanted = {"label": ("label", "sentiment")}.get(role, (role,))
        best = [name for name, match in numbered.items() if match and match["role"] in wanted]
        return tuple(best), ()
    return tuple(best), tuple(name for tier in tiers for name in tier if name not in best)


def _refuse_one_label(
    found: Mapping[str, Collection[str]],
    by_user: Collection[str],
    settings: TableSettings,
    names: Sequence[str],
    where: str,
) -> None:
    if "label" in by_user:
        raise UsageError(
            f"--label and --pairs {settings.pairs} contradict each other", "Leave one of them out"
        )
    if not (found["text_label"] and found["image_label"]):
        raise InputError(
            f"{where}: --pairs {settings.pairs} needs labels of the texts and of the pictures; it has only "
            f"{shown(names)}",
            "Name their columns: --text-label COLUMN --image-label COLUMN",
        )


def _refuse_uneven(found: Mapping[str, Collection[str]], where: str) -> None:
    n_text, n_image = len(found["text_label"]), len(found["image_label"])
    if not found["label"] and n_text != n_image:
        what = f"{n_text} columns of labels of texts, but {n_image} of pictures"
        raise InputError(f"{where}: {what}", "Name as many of both: --text-label a,b --image-label c,d")
    if found["annotator"] and not (found["label"] or n_text):
        raise InputError(f"{where}: a column of annotators, but none of labels", "Name it: --label COLUMN")


def _kept(wanted: Sequence[str], names: Sequence[str], where: str) -> tuple[str, ...]:
    for name in dict.fromkeys(wanted):
        _existing(name, names, where, "keep_columns")
        if name in PAIR_SCHEMA.names and name not in FILLED:
            raise UsageError(
                f"--keep-columns {name}: every dataset has a column of this name", "Rename it in the table"
            )
        if not name.isprintable() or len(name) > 100 or name != name.strip():
            raise UsageError(
                f"--keep-columns {name[:100]!r}: not a name for a column", "Rename it in the table"
            )
    return tuple(dict.fromkeys(wanted))
