"""Commands of the build stage."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mvsent.cli import crawl, options


class Polarity(StrEnum):
    """The sign of a score."""

    POSITIVE = "positive"
    NEGATIVE = "negative"


def register(app: typer.Typer) -> None:
    """Add this stage's commands to `app`."""
    app.command("demo")(demo)
    app.command("lexicon")(lexicon)
    app.command("replay")(replay)
    app.command("build-flickr")(crawl.build_flickr)
    app.command("build-getty")(crawl.build_getty)
    app.command("refresh")(crawl.refresh)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier demo in it is replaced.")] = Path(
        "demo"
    ),
    rows: Annotated[int, typer.Option(min=60, help="Tweets with a picture to draw.")] = 420,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows, at most.")] = 15,
    seed: Annotated[int, typer.Option(min=0, max=options.MAX_SEED, help="Seed of everything random.")] = 0,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = "",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build small datasets, train and evaluate, offline.

    A Flickr and a Getty build ask a local stand-in; a dataset in MVSA's layout is drawn and reconciled;
    DMLANet is trained on that, and on what Flickr gave.
    All pictures and words are made up, with moods that agree or conflict and annotators who err: the
    figures are computed, and say nothing about real data.

    Example: mvsent demo --out /tmp/mvsent-demo
    """
    from mvsent.demo import demo as run_demo
    from mvsent.workers.engine import choose

    chosen = choose(engine, ray_address)
    result = run_demo(out, n_rows=rows, epochs=epochs, seed=seed, engine=chosen, quiet=quiet)
    if as_json:
        from json import dumps

        from mvsent.report.funnel import funnel_document

        document = {
            "folder": str(result.folder),
            "seconds": round(result.seconds, 1),
            "datasets": [funnel_document(built.folder, built.manifest) for built in result.datasets],
            "metrics": [evaluation.document for evaluation in result.evaluations],
            "pictures": [str(picture) for one in result.evaluations for picture in one.pictures],
        }
        typer.echo(dumps(document, indent=2))
        return
    from mvsent.report.funnel import render_funnel
    from mvsent.report.tables import render_results

    for built in result.datasets:
        typer.echo(render_funnel(built.folder, built.manifest) + "\n")
    for evaluation in result.evaluations:
        typer.echo(render_results(evaluation.document) + "\n")
    typer.echo(f"Everything is in {result.folder}, made in {result.seconds:.0f} s. Look at:")
    for evaluation in result.evaluations:
        for page in (evaluation.folder / "report.html", *evaluation.pictures):
            typer.echo(f"  {page}")


def replay(
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen on; 0 takes a free one.")] = 0,
    photos: Annotated[int, typer.Option(min=0, help="Photos that each search finds.")] = 120,
    side: Annotated[int, typer.Option(min=8, max=4096, help="Longest side of the largest pictures.")] = 1024,
    quirks: Annotated[float, typer.Option(min=0, help="How often anything is odd; 0: never.")] = 1.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault", help="What goes wrong and how often, NAME=RATE; repeat for more.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Run a local stand-in for Flickr and Getty.

    It draws its own pictures, says how to use it, and runs until Ctrl-C. What is printed is for a shell:
    run it in another one, and build-flickr and build-getty ask the stand-in.
    docs/replay.md lists the faults; so does the error for an unknown one.

    Example: mvsent replay --port 8765 --fault image-404=0.02 --fault api-429-seconds=0.1
    """
    import threading
    from contextlib import suppress
    from json import dumps
    from shlex import quote

    from mvsent.errors import UsageError
    from mvsent.lexicons import load_anps, load_keywords
    from mvsent.standin.faults import Faults
    from mvsent.standin.replay import Replay
    from mvsent.standin.world import World

    sentiments = {term.query: term.sentiment for term in (*load_keywords(), *load_anps())}
    world = World(sentiments, seed=seed, photos=photos, side=side, quirks=quirks)
    faults = Faults(seed=seed).with_rates(fault or [])
    try:
        server = Replay(world, faults=faults, port=port)
    except OSError as error:
        raise UsageError(f"port {port}: {error.strerror}", "Choose another one, or --port 0") from None
    with server, suppress(KeyboardInterrupt):
        given = server.environment()
        lines = [f"export {name}={quote(value)}" for name, value in given.items()]
        typer.echo(dumps(given) if as_json else "\n".join(lines))
        threading.Event().wait()


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
    pattern: Annotated[str, typer.Option(help="Only words that fit, with * and ? as in file names.")] = "*",
    out: Annotated[
        Path | None, typer.Option(help="File to write. [default: print]", show_default=False)
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print or export the words that the crawls search for.

    These are the 1200 ANPs, the 101 keywords, or a lexicon of yours. What is written is a lexicon again,
    to change and give to build-flickr --anps or build-getty --keywords.

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
        from json import dumps

        typer.echo(dumps(document, indent=2, ensure_ascii=False))
    elif out is not None:
        typer.echo(f"{out}: {document['positive']} positive, {document['negative']} negative words")
    else:
        typer.echo(format_lexicon(terms), nl=False)
