"""Commands of the build stage that ask Flickr or Getty."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvsent.cli import options
from mvsent.cli.options import flag

if TYPE_CHECKING:
    from mvsent.build.dry_run import BuildPlan
    from mvsent.build.search import BuildResult


MaxPairs = Annotated[int | None, flag("--max-pairs", "Pairs at most; 0: all.", "0")]
TextFields = Annotated[
    str | None, flag("--text-fields", "What makes the text, of title,description,tags.", "description")
]
MaskQuery = Annotated[
    bool | None,
    typer.Option("--mask-query", help="Take the query's own words out of the text.", show_default=False),
]
QueryConflict = Annotated[
    str | None,
    flag("--query-conflict", "Found under queries of both signs: drop, first or mean decides.", "drop"),
]
MinSentiment = Annotated[
    float | None, flag("--min-sentiment", "Search only for words at least this far from zero.", "0.0")
]
Size = Annotated[
    int | None, flag("--size", "Longer side to fetch, in pixels, where there is a choice.", "1024")
]
MinSide = Annotated[int | None, flag("--min-side", "Shorter side in pixels, at least.", "64")]
NearDuplicates = Annotated[
    str | None, flag("--near-duplicates", "keep or drop pictures that look like an earlier one.", "keep")
]
MaxPixels = Annotated[int | None, flag("--max-pixels", "Drop larger pictures.", "100000000")]
MaxBytes = Annotated[int | None, flag("--max-bytes", "Drop larger picture files.", "33554432")]
Quota = Annotated[int | None, flag("--quota-per-hour", "Calls of the API.", "3600")]
ImagesPerSecond = Annotated[
    float | None, flag("--images-per-second", "Pictures from one host; 0: no limit.", "50")
]
Concurrency = Annotated[int | None, flag("--concurrency", "Downloads at once.", "32")]
KeyFile = Annotated[
    Path | None, flag("--key-file", "File with NAME=KEY lines, instead of environment variables.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would take, ask nothing, write nothing.")
]
FlickrEndpoint = Annotated[
    str | None, flag("--endpoint", "Another REST address.", "Flickr's", "MVSENT_FLICKR_ENDPOINT")
]


def build_flickr(
    anps: Annotated[Path | None, flag("--anps", "Lexicon to search for.", "the 1200 ANPs")] = None,
    per_query: Annotated[
        int | None, flag("--per-query", "Candidates of one query at most; 0: all.", "500")
    ] = None,
    max_pairs: MaxPairs = None,
    since: Annotated[str | None, flag("--since", "First day of upload, YYYY-MM-DD.", "2004-02-10")] = None,
    until: Annotated[str | None, flag("--until", "Last day of upload, YYYY-MM-DD.", "now")] = None,
    license: Annotated[str | None, flag("--license", "Flickr's licence numbers, as 4,5,9,10.", "all")] = None,
    safe: Annotated[str | None, flag("--safe", "safe, moderate or restricted.", "safe")] = None,
    text_fields: TextFields = None,
    mask_query: MaskQuery = None,
    language: Annotated[str | None, flag("--language", "Of the text, as en; or any.", "en")] = None,
    query_conflict: QueryConflict = None,
    min_sentiment: MinSentiment = None,
    size: Size = None,
    min_side: MinSide = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    near_duplicates: NearDuplicates = None,
    endpoint: FlickrEndpoint = None,
    key_file: KeyFile = None,
    quota_per_hour: Quota = None,
    images_per_second: ImagesPerSecond = None,
    concurrency: Concurrency = None,
    shard_size: options.ShardSize = None,
    workers: options.Workers = None,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = "",
    dry_run: DryRun = False,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build a dataset from Flickr's adjective-noun pairs.

    It goes to data/flickr, by the paper's rules. Needs FLICKR_API_KEY. Takes hours, days under a lower
    quota; stop it whenever you like, the same command continues.
    --per-query is 500 by default: one call a query. --dry-run says what to expect.

    Example: mvsent build-flickr --per-query 100 --license 4,5,9,10 --dry-run
    """
    flags = _settings_of(locals())

    from mvsent.build import search as build
    from mvsent.config import FlickrSettings, resolve

    settings = resolve("build-flickr", FlickrSettings, flags)
    if dry_run:
        from mvsent.build.dry_run import plan
        from mvsent.sources.crawl import FLICKR_PAGING

        _show_plan(plan("flickr", build.flickr_terms(settings), settings, FLICKR_PAGING), as_json)
        return
    from mvsent.sources.keys import api_key
    from mvsent.workers.engine import choose

    key = api_key("FLICKR_API_KEY", key_file)
    given: Any = {"overwrite": overwrite, "workers": workers or 0, "quiet": quiet}
    given["engine"] = choose(engine, ray_address)
    _show_result(build.build_flickr(out or Path("data", "flickr"), settings, key, **given), as_json)


def build_getty(
    keywords: Annotated[Path | None, flag("--keywords", "Lexicon to search for.", "the 101 keywords")] = None,
    per_query: Annotated[
        int | None, flag("--per-query", "Candidates of one query at most; 0: all.", "10000")
    ] = None,
    max_pairs: MaxPairs = None,
    family: Annotated[str | None, flag("--family", "creative or editorial.", "creative")] = None,
    text_fields: TextFields = None,
    mask_query: MaskQuery = None,
    language: Annotated[str | None, flag("--language", "Of the text, as en; or any.", "any")] = None,
    query_conflict: QueryConflict = None,
    min_sentiment: MinSentiment = None,
    size: Size = None,
    min_side: MinSide = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    near_duplicates: NearDuplicates = None,
    endpoint: Annotated[
        str | None, flag("--endpoint", "Another base address, …/v3.", "Getty's", "MVSENT_GETTY_ENDPOINT")
    ] = None,
    token_url: Annotated[
        str | None, flag("--token-url", "Where tokens come from.", "Getty's", "MVSENT_GETTY_TOKEN_URL")
    ] = None,
    key_file: KeyFile = None,
    quota_per_hour: Quota = None,
    images_per_second: ImagesPerSecond = None,
    concurrency: Concurrency = None,
    shard_size: options.ShardSize = None,
    workers: options.Workers = None,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = "",
    dry_run: DryRun = False,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build a dataset from Getty's affective keywords.

    It goes to data/getty, by the paper's rules. Needs GETTY_API_KEY, and uses GETTY_API_SECRET where it
    is set. Getty's licence restricts machine-learning
    use: read your agreement first. --per-query is 10000 by default: a hundred calls a query.

    Example: mvsent build-getty --family editorial --per-query 200 --dry-run
    """
    flags = _settings_of(locals())

    from mvsent.build import search as build
    from mvsent.config import GettySettings, resolve

    settings = resolve("build-getty", GettySettings, flags)
    if dry_run:
        from mvsent.build.dry_run import plan
        from mvsent.sources.crawl import GETTY_PAGING

        _show_plan(plan("getty", build.getty_terms(settings), settings, GETTY_PAGING), as_json)
        return
    from mvsent.sources.keys import api_key, optional_key
    from mvsent.workers.engine import choose

    key, secret = api_key("GETTY_API_KEY", key_file), optional_key("GETTY_API_SECRET", key_file)
    given: Any = {"overwrite": overwrite, "workers": workers or 0, "quiet": quiet}
    given["engine"] = choose(engine, ray_address)
    _show_result(build.build_getty(out or Path("data", "getty"), settings, key, secret, **given), as_json)


def refresh(
    folder: Annotated[
        Path | None, typer.Argument(help="A dataset of Flickr's. [default: data/flickr]", show_default=False)
    ] = None,
    endpoint: FlickrEndpoint = None,
    key_file: KeyFile = None,
    quota_per_hour: Annotated[
        int, typer.Option("--quota-per-hour", min=1, max=options.MAX_CALLS_PER_HOUR, help="Calls of the API.")
    ] = 3600,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Drop from a dataset what Flickr no longer shows.

    Flickr is asked which photos are still public, and the dataset is written anew without the others. One
    call a photo, within the quota; stop it whenever you like, the same command continues. The dataset
    stays as it is until its new version is complete, which then replaces it.

    Example: mvsent refresh data/flickr
    """
    import json

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


_NOT_SETTINGS = {
    "key_file",
    "workers",
    "engine",
    "ray_address",
    "dry_run",
    "out",
    "overwrite",
    "as_json",
    "quiet",
}


def _settings_of(given: dict[str, Any]) -> dict[str, Any]:
    """The flags that are settings; paths as text."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if name not in _NOT_SETTINGS
    }


def _show_result(result: "BuildResult", as_json: bool) -> None:
    import json

    from mvsent.report.funnel import funnel_document, render_funnel

    if as_json:
        typer.echo(json.dumps(funnel_document(result.folder, result.manifest), indent=2))
    else:
        typer.echo(render_funnel(result.folder, result.manifest))
        typer.echo(f"\nDropped rows, each with its reason: {result.folder / 'rejected.parquet'}")
        typer.echo(f"Licences and terms: {result.folder / 'README.md'}")
        typer.echo(f"Next: mvsent train {result.folder}")


def _show_plan(plan: "BuildPlan", as_json: bool) -> None:
    import json

    from mvsent.report.plan import render_plan

    typer.echo(json.dumps(plan.document(), indent=2) if as_json else render_plan(plan.document()))
