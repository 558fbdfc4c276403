"""Commands that build datasets from Flickr and Getty."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvsent.cli import options
from mvsent.cli.command import command
from mvsent.cli.options import flag

if TYPE_CHECKING:
    from mvsent.build.dry_run import BuildPlan
    from mvsent.build.search import BuildResult
    from mvsent.cli.given import Given
    from mvsent.config import FlickrSettings, GettySettings

KeyFile = Annotated[
    Path | None,
    flag("--key-file", "File with NAME=KEY lines, read instead of the environment.", section="Machine"),
]
DryRun = Annotated[
    bool, options.switch("--dry-run", "Estimate calls, time and space; ask nothing, write nothing.")
]


@command("build-flickr", "Build", settings="mvsent.config:FlickrSettings")
def build_flickr(
    *,
    given: "Given[FlickrSettings]",
    key_file: KeyFile = None,
    workers: options.Workers = 0,
    engine: options.Engine,
    dry_run: DryRun = False,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build a dataset from Flickr's adjective-noun pairs.

    It is written to data/flickr, by the paper's rules. Needs FLICKR_API_KEY. Takes hours, or days under a
    lower quota; --dry-run estimates them. Stop it at any time: the same command continues.
    The default of --per-query, 500, is one call per query.

    Example: mvsent build-flickr --per-query 100 --license 4,5,9,10 --dry-run
    """
    from mvsent.build import search as build

    settings = given.resolve()
    if dry_run:
        from mvsent.build.dry_run import plan
        from mvsent.sources.crawl import FLICKR_PAGING

        _show_plan(plan("flickr", build.flickr_terms(settings), settings, FLICKR_PAGING), as_json)
        return
    from mvsent.sources.keys import api_key

    key = api_key("FLICKR_API_KEY", key_file)
    how: Any = {"overwrite": overwrite, "workers": workers, "engine": engine.chosen(), "quiet": quiet}
    _show_result(build.build_flickr(out or Path("data", "flickr"), settings, key, **how), as_json)


@command("build-getty", "Build", settings="mvsent.config:GettySettings")
def build_getty(
    *,
    given: "Given[GettySettings]",
    key_file: KeyFile = None,
    workers: options.Workers = 0,
    engine: options.Engine,
    dry_run: DryRun = False,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build a dataset from Getty's affective keywords.

    It is written to data/getty, by the paper's rules. Needs GETTY_API_KEY; uses GETTY_API_SECRET if it is
    set. Getty's licence restricts machine-learning use: read your agreement first. Stop it at any time: the
    same command continues. The default of --per-query, 10000, is a hundred calls per query.

    Example: mvsent build-getty --family editorial --per-query 200 --dry-run
    """
    from mvsent.build import search as build

    settings = given.resolve()
    if dry_run:
        from mvsent.build.dry_run import plan
        from mvsent.sources.crawl import GETTY_PAGING

        _show_plan(plan("getty", build.getty_terms(settings), settings, GETTY_PAGING), as_json)
        return
    from mvsent.sources.keys import api_key, optional_key

    key, secret = api_key("GETTY_API_KEY", key_file), optional_key("GETTY_API_SECRET", key_file)
    how: Any = {"overwrite": overwrite, "workers": workers, "engine": engine.chosen(), "quiet": quiet}
    _show_result(build.build_getty(out or Path("data", "getty"), settings, key, secret, **how), as_json)


@command("refresh", "Build")
def refresh(
    folder: Annotated[
        Path | None, typer.Argument(help="A dataset of Flickr's. [default: data/flickr]", show_default=False)
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="Address of another REST server. [default: Flickr's]",
            show_default=False,
            envvar="MVSENT_FLICKR_ENDPOINT",
        ),
    ] = None,
    key_file: KeyFile = None,
    quota_per_hour: Annotated[
        int, typer.Option(min=1, max=options.MAX_CALLS_PER_HOUR, help="API calls per hour.")
    ] = 3600,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Drop from a dataset the photos that Flickr no longer shows.

    Asks Flickr which photos are still public, one call per photo, and writes the dataset without the others.
    Stop it at any time: the same command continues. The dataset stays as it is until its new version is
    complete and replaces it.

    Example: mvsent refresh data/flickr
    """
    from mvsent.build.refresh import refresh as run_refresh
    from mvsent.sources.keys import api_key

    result = run_refresh(
        folder or Path("data", "flickr"),
        api_key("FLICKR_API_KEY", key_file),
        endpoint=endpoint or "",
        quota_per_hour=quota_per_hour,
        quiet=quiet,
    )
    document = {"folder": str(result.folder), "asked": result.n_asked, "removed": result.removed}
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        typer.echo(f"{result.folder}: {result.n_asked} photos asked for, {len(result.removed)} are gone")


class Polarity(StrEnum):
    """The sign of a score."""

    POSITIVE = "positive"
    NEGATIVE = "negative"


@command("lexicon", "Build")
def lexicon(
    which: Annotated[
        str, typer.Argument(metavar="LEXICON", help="anps, keywords, or a file of yours.")
    ] = "anps",
    polarity: Annotated[
        Polarity | None, typer.Option(help="Only words of this sign. [default: both]", show_default=False)
    ] = None,
    min_sentiment: Annotated[
        float, typer.Option(min=0, help="Only words whose score is at least this far from zero.")
    ] = 0.0,
    pattern: Annotated[str, typer.Option(help="Only words that match, with * and ? as in file names.")] = "*",
    out: Annotated[
        Path | None, typer.Option(help="File to write. [default: print]", show_default=False)
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print or export the words that the crawls search for.

    These are the 1200 ANPs, the 101 keywords, or a lexicon of yours. The file written is a lexicon, too: edit
    it and give it to build-flickr --anps or build-getty --keywords.

    Example: mvsent lexicon anps --polarity negative --min-sentiment 1.5 --pattern '*dog' --out sad-dogs.tsv
    """
    from mvsent.errors import OutputExistsError, UsageError, did_you_mean
    from mvsent.lexicons import format_lexicon, load_lexicon, select

    every = load_lexicon(which)
    terms = select(every, polarity and polarity.value, min_sentiment, pattern)
    if not terms:
        near = "" if select(every, pattern=pattern) else did_you_mean(pattern, (term.word for term in every))
        raise UsageError(f"{which}: no word fits all of these filters", f"{near}Widen one of them")
    n_positive = sum(term.sentiment > 0 for term in terms)
    document = {
        "lexicon": which,
        "positive": n_positive,
        "negative": len(terms) - n_positive,
        "terms": [{"word": term.word, "query": term.query, "sentiment": term.sentiment} for term in terms],
    }
    if out is not None:
        from mvsent.shards.atomic import atomic_write

        if out.exists() and not overwrite:
            raise OutputExistsError(f"{out} exists", "Give --overwrite to replace it")
        comment = f"{len(terms)} words selected by mvsent lexicon from {which}, where their origin stands"
        with atomic_write(out) as file:
            file.write(format_lexicon(terms, comment).encode())
        document["out"] = str(out)
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif out is not None:
        typer.echo(f"{out}: {document['positive']} positive, {document['negative']} negative words")
    else:
        typer.echo(format_lexicon(terms), nl=False)


def _show_result(result: "BuildResult", as_json: bool) -> None:
    from mvsent.report.funnel import funnel_document, render_funnel

    if as_json:
        typer.echo(json.dumps(funnel_document(result.folder, result.manifest), indent=2))
    else:
        typer.echo(render_funnel(result.folder, result.manifest))
        typer.echo(f"\nDropped rows, each with its reason: {result.folder / 'rejected.parquet'}")
        typer.echo(f"Licences and terms: {result.folder / 'README.md'}")
        typer.echo(f"Next: mvsent train {result.folder}")


def _show_plan(plan: "BuildPlan", as_json: bool) -> None:
    from mvsent.report.plan import render_plan

    typer.echo(json.dumps(plan.document(), indent=2) if as_json else render_plan(plan.document()))
