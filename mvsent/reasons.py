"""Why rows are dropped. It needs no Arrow, so that a command's help need not wait for it."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why an input row is not in the dataset. Each dropped row has exactly one.

    >>> Reason("no-majority"), Reason.NO_MAJORITY.meaning
    (<Reason.NO_MAJORITY: 'no-majority'>, 'has no majority among its annotators in one modality')
    """

    meaning: str  # what is true of the row, to be read after "the row"

    def __new__(cls, value: str, meaning: str = "") -> "Reason":
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.meaning = meaning
        return reason

    LABEL_CONFLICT = "label-conflict", "is positive in one modality and negative in the other"
    LABELS_DIFFER = (
        "labels-differ",
        "is neutral in one modality and not in the other (`--pairs consistent`)",
    )
    NO_MAJORITY = "no-majority", "has no majority among its annotators in one modality"
    LABEL_MISSING = "label-missing", "has no label, in a table of which other rows have one"
    IMAGE_MISSING = "image-missing", "has no picture file, no address of one, or only Flickr's placeholder"
    IMAGE_CORRUPT = "image-corrupt", "has a picture that is empty, or cannot be decoded to its end"
    IMAGE_TOO_SMALL = "image-too-small", "has a picture under the limits"
    IMAGE_TOO_LARGE = "image-too-large", "has a picture over the limits"
    IMAGE_NOT_AN_IMAGE = "image-not-an-image", "has a file that is not a picture (HTML, text, …)"
    TEXT_MISSING = "text-missing", "has no text file, no description or caption, or nothing in it"
    TEXT_TOO_SHORT = "text-too-short", "has fewer words than the filter asks for"
    TEXT_TOO_LONG = "text-too-long", "has more words than the filter allows"
    TEXT_LANGUAGE = "text-language", "has a text in a language that the filter excludes"
    VIDEO = "video", "is a video in the metadata dump"
    ROW_UNUSABLE = "row-unusable", "is no row of a metadata dump, or has no id in it"
    DUPLICATE_ID = "duplicate-id", "has the id of an earlier row"
    DUPLICATE_TEXT = "duplicate-text", "has nearly the text of an earlier row of the same owner"
    OVER_PER_OWNER = (
        "over-per-owner",
        "was not needed: its owner had `--per-owner` photos of that query already",
    )
    QUERY_NOT_FOUND = (
        "query-not-found",
        "has none of the queries that found it in its title, tags or description",
    )
    WATERMARKED = "watermarked", "has a picture with a watermark in every size"
    DUPLICATE_IMAGE = "duplicate-image", "has the picture of an earlier row"
    DUPLICATE_QUERY_CONFLICT = "duplicate-query-conflict", "was found by words of opposite sign"
    DUPLICATE_LABEL_CONFLICT = (
        "duplicate-label-conflict",
        "has the id or picture of a row with another label in another dataset (`mvsent merge`)",
    )
    HTTP_404 = "http-404", "has a picture that its host no longer has"
    HTTP_ERROR = (
        "http-error",
        "has a picture whose host refused, failed, or redirected too often",
    )
    TIMEOUT = "timeout", "has a picture that was not downloaded in time"
    BLOCKED_HOST = (
        "blocked-host",
        "has a picture at an address that is not public, has a password, or is not one of http or https",
    )
    ROBOTS_NOAI = "robots-noai", "has a picture whose host forbids use for machine learning"
    OVER_MAX_PAIRS = "over-max-pairs", "was not needed: `--max-pairs` were kept already"
    TAKEN_DOWN = "taken-down", "has since been removed or made private (`mvsent refresh`)"
    NOT_ANNOTATED = "not-annotated", "was annotated by nobody in Label Studio (`mvsent reconcile-tasks`)"
    NOT_SELECTED = "not-selected", "is not among the rows that were asked for (`mvsent subset`)"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row is dropped, with the detail that lets a person check it."""

    reason: Reason
    detail: str
