"""What a model says of one pair, as the JSON endpoint has it."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from mvsent.errors import InputError, UsageError
from mvsent.inference.model import NOTHING_THERE, Model, clean
from mvsent.pages.explain import Pick, explain_pairs
from mvsent.report.explain_page import pictures

DataUri = Annotated[str, Field(description="data:image/webp;base64,…")]
Weights = Annotated[list[float], Field(description="one a word, from 0 to 1")]


class PairAnswer(BaseModel):
    """The sentiment of a pair and, if it was asked for, what the network looked at."""

    label: str = Field(description="the likeliest sentiment")
    probabilities: dict[str, float] = Field(description="of each sentiment; they sum to one")
    missing: str = Field(description='what it was judged without: "", "image" or "text"')
    words: list[str] = Field(default=[], description="the text as the network read it")
    shades: dict[str, Weights] = Field(
        default={}, description="weights of the words, by the attention's name"
    )
    picture: DataUri = Field(default="", description="the picture, small")
    maps: dict[str, DataUri] = Field(default={}, description="the picture under heat, by the map's name")
    note: str = Field(default="", description="why nothing is shown, or of which fold it is")


def answer(model: Model, image: bytes | None, text: str, *, explain: bool) -> PairAnswer:
    """What `Model.predict` says; with `explain`, also what the network of its first fold looked at.

    Raises: InputError for a picture that cannot be used, or where there is neither picture nor text.
    """
    if image is None and not clean(text):
        raise InputError(NOTHING_THERE)
    answers = model.predict([image], [text])
    if answers.errors[0]:
        raise InputError(f"the picture cannot be used: {answers.errors[0]}")
    probabilities = answers.probabilities[0].tolist()
    found = PairAnswer(
        label=answers.labels[0],
        probabilities=dict(zip(answers.classes, probabilities, strict=True)),
        missing=answers.missing[0],
    )
    return _explained(model, image, clean(text), found) if explain else found


def _explained(model: Model, image: bytes | None, text: str, found: PairAnswer) -> PairAnswer:
    try:
        (pair,) = explain_pairs(model, [Pick("pair", "given", image, text)])
    except UsageError as error:  # a model that has nothing to show
        return found.model_copy(update={"note": error.what})
    layers = dict(pictures(pair))
    return found.model_copy(
        update={
            "words": pair.words,
            "shades": {name: [round(float(w), 4) for w in weights] for name, weights in pair.shades.items()},
            "picture": layers.pop("picture", ""),
            "maps": layers,
            "note": _note(model.folds),
        }
    )


def _note(folds: Sequence[int]) -> str:
    if len(folds) == 1:
        return ""
    return f"The probabilities are the mean of {len(folds)} folds; what was looked at is fold {folds[0]}'s."
