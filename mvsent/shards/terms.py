"""Terms of use of a dataset: those of its sources, and the paper to cite."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mvsent.shards.manifest import Manifest
from mvsent.sources import registry
from mvsent.sources.registry import SearchedSource, Source, Terms

DMLANET = """@article{yadav2020dmlanet,
  title = {A Deep Multi-Level Attentive network for Multimodal Sentiment Analysis},
  author = {Yadav, Ashima and Vishwakarma, Dinesh Kumar},
  journal = {arXiv preprint arXiv:2012.08256},
  year = {2020}
}"""


def source_of(name: str) -> Source | None:
    """The source of the dataset called `name`, by which the name begins; None if it begins by none."""
    sources = (*registry.SEARCHED, *registry.OTHERS)
    return next((registry.source(each) for each in sources if name.startswith(each)), None)


def terms_of(name: str) -> Terms:
    """Terms of the dataset called `name`: those of the source that the name begins with.

    >>> terms_of("flickr-2020").license, terms_of("my-own").license
    ('https://www.flickr.com/help/terms/api', 'unknown')
    """
    source = source_of(name)
    return source.terms if source else Terms()


def reminder(manifest: Manifest, folder: Path) -> str:
    """A line on a dataset that is older than its sources allow without a check; empty for others."""
    age = (datetime.now(UTC) - manifest.created_at).days
    limits = [
        (days, source.title)
        for source in map(source_of, manifest.sources)
        if isinstance(source, SearchedSource) and (days := source.terms.cache_days) is not None
    ]
    if not limits or age <= min(limits)[0]:
        return ""
    allowed, title = min(limits)
    told = f"This copy is {_days(age)} old; {title}'s terms allow {_days(allowed)} without a check"
    return f"{told}. Drop what was removed since: mvsent refresh {folder}"


def _days(n: int) -> str:
    return "1 day" if n == 1 else f"{n} days"


def joint_terms(names: Sequence[str]) -> Terms:
    """Terms of a dataset that was merged from those called `names`: all of theirs hold.

    >>> joint_terms(["mvsa-single", "mvsa-multiple"]).text == terms_of("mvsa").text
    True
    >>> joint_terms(["flickr", "getty"]).url
    ''
    """
    every = list(dict.fromkeys(map(terms_of, names)))
    citation = "\n\n".join(dict.fromkeys(terms.citation or DMLANET for terms in every))
    if len(every) == 1:
        return Terms(every[0].text, every[0].url, citation)
    return Terms("\n\n".join(terms.text for terms in every if terms.text), citation=citation)
