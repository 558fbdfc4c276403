"""Commands that build datasets from the registered sources."""

import json
from dataclasses import replace
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvsent.cli import options
from mvsent.cli.command import MAKERS, Command, command
from mvsent.cli.options import flag
from mvsent.sources import registry

if TYPE_CHECKING:
    from mvsent.build.reconcile import ReconcileResult
    from mvsent.build.search import BuildResult
    from mvsent.cli.given import Given
    from mvsent.config import BuildSettings, FetchSettings
    from mvsent.setting import Settings
    from mvsent.sources.table import TableSettings

    Built = BuildResult | ReconcileResult

KeyFile = Annotated[
    Path | None,
    flag("--key-file", "File with NAME=KEY lines, read instead of the environment.", section="Machine"),
]
DryRun = Annotated[
    bool, options.switch("--dry-run", "Estimate calls, time and space; ask nothing, write nothing.")
]


def build(
    name: str,
    *,
    given: "Given[BuildSettings]",
    key_file: KeyFile = None,
    workers: options.Workers = 0,
    engine: options.EngineOptions,
    dry_run: DryRun = False,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build a dataset from the source called `name`."""
    source = registry.searched(name)
    settings = given.resolve()
    dump = source.dump(settings, source.words(settings))
    if dump and dry_run:
        from mvsent.build.dump_plan import plan_dump, render_dump_plan
        from mvsent.build.match_dump import refuse_broken

        scanned = plan_dump(source, settings, dump, engine.chosen(), workers=workers, quiet=quiet)
        typer.echo(json.dumps(scanned, indent=2) if as_json else render_dump_plan(scanned))
        refuse_broken(scanned["broken"])
        return
    if dry_run:
        from mvsent.build.dry_run import plan, render_plan
        from mvsent.sources.keys import read_keys

        source.check(settings, read_keys([replace(key, is_optional=True) for key in source.keys], key_file))
        estimate = plan(source, settings, out or Path("data", name)).document()
        typer.echo(json.dumps(estimate, indent=2) if as_json else render_plan(estimate))
        return
    from mvsent.build.match_dump import broken_in, refuse_broken
    from mvsent.build.search import build as run_build
    from mvsent.sources.keys import read_keys

    result = run_build(
        source,
        out or Path("data", name),
        settings,
        {} if dump else read_keys(source.keys, key_file),
        overwrite=overwrite,
        workers=workers,
        engine=engine.chosen(),
        quiet=quiet,
    )
    tell(result, as_json=as_json, has_terms=True)
    refuse_broken(broken_in(result.manifest.notes))


def tell(result: "Built", *, as_json: bool, has_terms: bool = False) -> None:
    """Print the funnel of a dataset, the place of its source's terms if it has them, and the next step."""
    from mvsent.report.funnel import funnel_document, render_funnel

    folder, manifest = result.folder, result.manifest
    if as_json:
        typer.echo(json.dumps(funnel_document(folder, manifest), indent=2))
        return
    typer.echo(render_funnel(folder, manifest))
    next_step = f"export {folder} --to label-studio" if manifest.n_unlabelled else f"train {folder}"
    if manifest.settings.get("metadata_only"):
        next_step = f"fetch {folder}"
    gap = "" if manifest.funnel.dropped else "\n"
    if has_terms:
        typer.echo(f"{gap}Licences and terms: {folder / 'README.md'}")
        gap = ""
    typer.echo(f"{gap}Next: mvsent {next_step}")


class BuildCommand(Command):
    """`build-NAME` of a registered source, whose module is imported when the command is typed."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"build-{name}", "Build", partial(build, name), settings="of the source", continues=True
        )
        self.source, self.short_help = name, registry.SEARCHED[name]

    @cached_property
    def kind(self) -> "type[Settings]":
        return registry.searched(self.source).settings

    # Click assigns to it.
    help = property(
        lambda self: f"{self.short_help}\n\n{registry.searched(self.source).about.strip()}",
        lambda self, _: None,
    )


MAKERS.append(lambda: map(BuildCommand, registry.SEARCHED))


@command("build-table", "Build", settings="mvsent.sources.table:TableSettings", continues=True)
def build_table(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="CSV, TSV, JSON, JSON lines or Parquet files, here or at s3://…; folders with metadata.csv, "
            "or as Hugging Face's save_to_disk writes them; or patterns in quotes.",
        ),
    ],
    given: "Given[TableSettings]",
    name: Annotated[str | None, options.dataset_name("table")] = None,
    workers: options.Workers = 0,
    engine: options.EngineOptions,
    dry_run: Annotated[
        bool, options.switch("--dry-run", "Read the table and say what would be built; write nothing.")
    ] = False,
    out: options.OutByName = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build a dataset from a table of your own.

    A row is a picture (a path, an address, or its bytes), a text, and a label, if there are labels. Columns
    are found by their usual names, and which was taken for what is printed. Pictures at addresses are
    downloaded. Every dropped row is listed with its reason and its line in rejected.parquet. Stop it at any
    time: the same command continues.

    Example: mvsent build-table pairs.csv --name my-pairs
    """
    from mvsent.build.from_table import build_table as run_build
    from mvsent.build.table_cells import read_plan
    from mvsent.build.table_plan import render_dry_run, render_plan

    settings = given.resolve()
    plan = read_plan(files, settings, name or settings.dataset_name("table"))
    if dry_run:
        typer.echo(json.dumps(plan.document(), indent=2) if as_json else render_dry_run(plan))
        return
    if not quiet:
        typer.echo(f"{render_plan(plan)}\n", err=as_json)
    chosen = engine.chosen()
    folder = out or Path("data", plan.name)
    result = run_build(plan, folder, overwrite=overwrite, workers=workers, engine=chosen, quiet=quiet)
    tell(result, as_json=as_json)


@command(
    "refresh",
    "Build",
    settings="mvsent.config:BuildSettings",
    section="",
    only=("endpoint", "quota_per_hour"),
    continues=True,
)
def refresh(
    *,
    folder: Annotated[
        Path | None, typer.Argument(help="A dataset of Flickr's. [default: data/flickr]", show_default=False)
    ] = None,
    given: "Given[BuildSettings]",
    key_file: KeyFile = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Drop from a dataset the photos that Flickr no longer shows.

    Asks Flickr which photos are still public, one call per photo, and writes the dataset without the others.
    Stop it at any time: the same command continues. The dataset stays as it is until its new version is
    complete and replaces it.

    Example: mvsent refresh data/flickr
    """
    from mvsent.build.refresh import NotAnswered, open_refreshable
    from mvsent.build.refresh import refresh as run_refresh
    from mvsent.sources.keys import read_keys

    given.resolve()  # a bad option is refused before the dataset is read
    dataset, source = open_refreshable(folder or Path("data", "flickr"))
    settings = replace(given, kind=source.settings).resolve()
    result = run_refresh(dataset, source, settings, read_keys(source.keys, key_file), quiet=quiet)
    document = {
        "folder": str(result.folder),
        "asked": result.n_asked,
        "removed": result.removed,
        "refused": result.refused,
    }
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        typer.echo(f"{result.folder}: {result.n_asked} photos asked for, {len(result.removed)} are gone")
    if result.refused:
        what = f"{source.title} did not say of {len(result.refused)} whether they are; they stay"
        raise NotAnswered(f"{what}. The first answer: {result.refusal}", "The same command asks again")


@command("fetch", "Build", settings="mvsent.config:FetchSettings", section="", continues=True)
def fetch(
    *,
    folder: Annotated[Path, typer.Argument(help="A dataset that was built with --metadata-only.")],
    given: "Given[FetchSettings]",
    workers: options.Workers = 0,
    engine: options.EngineOptions,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch the pictures of a dataset of addresses and texts.

    The dataset with its pictures is written to FOLDER-pictures, or to --out. Pairs, labels and ids stay; a
    picture that is gone by now drops its pair, with the reason. Stop it at any time: the same command
    continues. Pictures of mvsent replay need --allow-host with the address that it prints.

    Example: mvsent fetch data/flickr
    """
    from mvsent.build.fill_pictures import fill_pictures

    result = fill_pictures(
        folder,
        given.resolve(),
        out,
        overwrite=overwrite,
        workers=workers,
        engine=engine.chosen(),
        quiet=quiet,
    )
    tell(result, as_json=as_json, has_terms=True)


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
    it and give it to a build, as in build-flickr --anps FILE.

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
