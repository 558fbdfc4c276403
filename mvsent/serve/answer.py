"""The answer of the JSON endpoint for one pair."""

from typing import Annotated

from pydantic import BaseModel, Field

from mvsent.errors import InputError, UsageError
from mvsent.inference.attended import Pick, explain_pairs
from mvsent.inference.model import NOTHING_THERE, Model, clean
from mvsent.report.explain_page import pictures

DataUri = Annotated[str, Field(description="data:image/webp;base64,…")]
Weights = Annotated[list[float], Field(description="one a word, from 0 to 1")]


class PairAnswer(BaseModel):
    """The sentiment of a pair and, on request, the regions and words that the network attended to."""

    label: str = Field(description="the likeliest sentiment")
    probabilities: dict[str, float] = Field(description="of each sentiment; they sum to one")
    missing: str = Field(description='the modality that was absent: "", "image" or "text"')
    words: list[str] = Field(default=[], description="the text as the network read it")
    shades: dict[str, Weights] = Field(
        default={}, description="weights of the words, by the attention's name"
    )
    picture: DataUri = Field(default="", description="the picture, small")
    maps: dict[str, DataUri] = Field(default={}, description="the picture under heat, by the map's name")
    note: str = Field(default="", description="why nothing is explained, or which fold is explained")


def answer(model: Model, image: bytes | None, text: str, *, explain: bool) -> PairAnswer:
    """Answer one pair as `Model.predict` does; with `explain`, add the attention of its first fold's network.

    Raises: InputError if the picture cannot be used, or if both picture and text are absent.
    """
    if image is None and not clean(text):
        raise InputError(NOTHING_THERE)
    answers = model.predict([image], [text])
    if answers.errors[0]:
        raise InputError(f"the picture cannot be used: {answers.errors[0]}")
    probabilities = answers.probabilities[0].tolist()
    bare = PairAnswer(
        label=answers.labels[0],
        probabilities=dict(zip(answers.classes, probabilities, strict=True)),
        missing=answers.missing[0],
    )
    if not explain:
        return bare
    try:
        (pair,) = explain_pairs(model, [Pick("pair", "given", image, clean(text))])
    except UsageError as error:  # a model without attention
        return bare.model_copy(update={"note": error.what})
    layers = dict(pictures(pair))
    n_folds = len(model.folds)
    return bare.model_copy(
        update={
            "words": pair.words,
            "shades": {name: [round(float(w), 4) for w in weights] for name, weights in pair.shades.items()},
            "picture": layers.pop("picture", ""),
            "maps": layers,
            "note": f"The probabilities are the mean of {n_folds} folds; the attention is that of fold "
            f"{model.folds[0]}."
            if n_folds > 1
            else "",
        }
    )
