"""The sources of pairs: each is one object with its settings, keys, search and terms.

Commands, key files, `doctor`, `refresh` and dataset cards iterate over the sources that are registered here.
Names need no import, so that `mvsent --help` stays fast; `source` imports the module of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from datetime import datetime

    from pydantic import SecretStr

    from mvsent.config import BuildSettings
    from mvsent.lexicons import Term
    from mvsent.pairs import ExtraType
    from mvsent.sources.crawl.candidate import Query, SearchPage, Window
    from mvsent.sources.dump_files import Dump

SEARCHED = {
    "flickr": "Build a dataset from Flickr's adjective-noun pairs.",
    "getty": "Build a dataset from Getty's affective keywords.",
}
"""Source with a search, which is SOURCE in sources/NAME.py → what its command `build-NAME` does."""

OTHERS = ("mvsa", "table")
"""The other sources, which have commands of their own."""

S = TypeVar("S", bound="BuildSettings")
Keys = Mapping[str, "SecretStr"]
"""Environment variable → key."""

Search = Callable[["Query", "Window"], "SearchPage"]
"""Asks for one page of a query. Raises: SourceFailure."""


@dataclass(frozen=True)
class Terms:
    """Terms of use of what comes from a source.

    Attributes:
        text: for people.
        url: where the source states them.
        citation: BibTeX of the paper to cite, if it is not the DMLANet paper.
        cache_days: days for which pictures may be kept without looking whether they are still shown; None if
            no limit is known.
    """

    text: str = ""
    url: str = ""
    citation: str = ""
    cache_days: int | None = None

    @property
    def license(self) -> str:
        """The address of the terms, else the terms."""
        return self.url or " ".join(self.text.split()) or "unknown"


@dataclass(frozen=True)
class Key:
    """An API key: the environment variable that holds it, where to get one, and who gets one."""

    name: str
    url: str
    is_optional: bool = False
    note: str = ""


@dataclass(frozen=True)
class Paging:
    """How far a search pages.

    Attributes:
        per_page: items per page.
        max_results: results of one search after which its pages repeat; None if no limit is known.
    """

    per_page: int
    max_results: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of pairs.

    Attributes:
        name: ids begin with `NAME:`, and names of datasets with NAME.
    """

    name: str
    terms: Terms


@dataclass(frozen=True, kw_only=True)
class SearchedSource(Source, Generic[S]):
    """A source that is searched for the words of a lexicon, by `mvsent build-NAME`.

    Attributes:
        title: its name in messages.
        about: what the command's help says after its first line.
        settings: of the command.
        keys: in the order in which a key file without names lists them.
        lexicon: gives the words that can be searched for.
        columns: further columns of its datasets, with their types; `Crawled` knows how they are filled.
        span: gives the first and the last second of upload to search for, of a crawl that begins at a time;
            (0, 0) if the source is not searched by date.
        check: raises UsageError for settings that the keys at hand do not allow.
        search: opens the search.
        dump: opens the metadata dumps that the settings name, in which the words are looked for instead of
            searching; None if they name none.
        still_public: opens the check whether an id is still shown to everyone, for `mvsent refresh`; None if
            the source offers none.
    """

    title: str
    about: str
    settings: type[S]
    keys: tuple[Key, ...]
    paging: Paging
    lexicon: Callable[[S], "list[Term]"]
    search: Callable[[S, Keys], Search]
    columns: "Mapping[str, ExtraType]" = field(default_factory=dict)
    span: Callable[[S, "datetime"], tuple[int, int]] = lambda settings, now: (0, 0)
    check: Callable[[S, Keys], None] = lambda settings, keys: None
    dump: Callable[[S, "list[Term]"], "Dump | None"] = lambda settings, words: None
    still_public: Callable[[S, Keys], Callable[[str], bool]] | None = None

    def words(self, settings: S) -> "list[Term]":
        """The words to search for: those of the lexicon that are as strong as `--min-sentiment` asks.

        Raises: UsageError if no word is so strong; InputError for a file that is no lexicon.
        """
        from mvsent.errors import UsageError
        from mvsent.lexicons import select

        strong = select(self.lexicon(settings), min_sentiment=settings.min_sentiment)
        if not strong:
            what = f"--min-sentiment {settings.min_sentiment:g}: no word of the lexicon is so strong"
            raise UsageError(what, "Lower it")
        return strong


_REGISTERED: dict[str, Source] = {}


def register(source: SearchedSource[Any], summary: str) -> None:
    """Add a source that is not one of the package's; `summary` is the first line of its command's help."""
    _REGISTERED[source.name] = source
    SEARCHED[source.name] = summary


def unregister(name: str) -> None:
    """Remove a source that `register` added."""
    del SEARCHED[name], _REGISTERED[name]


def source(name: str) -> Source:
    """The source of this name. Raises: KeyError for an unknown one."""
    if name not in _REGISTERED:
        if name not in (*SEARCHED, *OTHERS):
            raise KeyError(name)
        _REGISTERED[name] = import_module(f"mvsent.sources.{name}").SOURCE
    return _REGISTERED[name]


def searched(name: str) -> SearchedSource[Any]:
    """The source of this name, which is one of SEARCHED."""
    return cast("SearchedSource[Any]", source(name))


def all_keys() -> dict[str, Key]:
    """The API keys of all sources, by name."""
    return {key.name: key for name in SEARCHED for key in searched(name).keys}
