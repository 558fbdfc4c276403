"""Commands that set things up: a configuration file, a look at this machine, a demonstration, a stand-in."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvsent.cli import options
from mvsent.cli.command import command, sections

if TYPE_CHECKING:
    from mvsent.setting import Settings

HEAD = """\
# Settings of mvsent for the commands that run in this folder, written by `mvsent init`.
# Every line is a default and commented out: take the # away and change the value.
# The environment overrides this file, and options override both: MVSENT_TRAIN_BATCH_SIZE is batch_size of
# [train]. Lists and tables may be written as options take them: folds = "0,2", options = "without=self".
"""


@command("init", "Set up")
def init(
    overwrite: options.Overwrite = False, as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Write a mvsent.toml to fill in.

    It is written to the current folder, where the commands look for it. It has a table for each command that
    reads settings, with every setting, its meaning and its default. All lines are commented out, so that
    nothing changes until you remove a #.

    Example: mvsent init
    """
    from mvsent.cli.given import CONFIG_FILE
    from mvsent.errors import OutputExistsError
    from mvsent.shards.atomic import atomic_write

    path = Path(CONFIG_FILE)
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists", "Give --overwrite to replace it")
    kinds = {section: reader.kind for section, reader in sections().items()}
    with atomic_write(path) as file:
        file.write("\n".join([HEAD, *(table(section, kind) for section, kind in kinds.items())]).encode())
    defaults = {section: kind().model_dump(mode="json") for section, kind in kinds.items()}
    if as_json:
        typer.echo(json.dumps({"file": str(path), "settings": defaults}, indent=2))
        return
    n_settings = sum(map(len, defaults.values()))
    typer.echo(f"{path}: {n_settings} settings of {len(defaults)} commands, each at its default")
    if not quiet:
        typer.echo(f"Next: take the # from a line of [train] in {path}, then mvsent train")


def table(section: str, kind: "type[Settings]") -> str:
    """A command's table of `mvsent.toml`: every setting with its meaning, commented out at its default."""
    lines = []
    for name, stated in kind.stated().items():
        meaning = stated.help + f" One of {', '.join(stated.choices)}." * bool(stated.choices)
        if stated.unset:
            meaning += f" {'0' if stated.default == 0 else 'Empty'}: {stated.unset}."
        # A default's JSON is TOML too.
        lines.append(f"# {meaning}\n#{name} = {json.dumps(stated.default)}\n")
    return f"[{section}]\n\n" + "\n".join(lines)


@command("doctor", "Set up")
def doctor(as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Report what this machine has and lacks.

    Versions, extras, device, weights, word vectors, storage, and which API keys are set.
    Downloads nothing and prints no key.

    Example: mvsent doctor
    """
    from mvsent.doctor import examine

    findings = examine().sections
    if as_json:
        typer.echo(json.dumps(dict(findings), indent=2))
        return
    width = max(len(name) for section in findings.values() for name in section)
    for section, of_section in findings.items():
        typer.secho(section, bold=True)
        for name, finding in of_section.items():
            typer.echo(f"  {name:<{width}}  {finding}")


@command("demo", "Set up")
def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier demo in it is replaced.")] = Path(
        "demo"
    ),
    rows: Annotated[int, typer.Option(min=60, help="Number of tweets with a picture to draw.")] = 420,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs.")] = 15,
    seed: options.Seed = 0,
    engine: options.EngineOptions,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build small datasets, train and evaluate, offline.

    Builds from a local stand-in for Flickr and Getty, draws a dataset in MVSA's layout and reconciles it,
    trains DMLANet on that and on the Flickr dataset, and evaluates it. All pictures and words are made up,
    with moods that agree or conflict and annotators who err: the numbers are computed, but say nothing about
    real data.

    Example: mvsent demo --out /tmp/mvsent-demo
    """
    from mvsent.demo import demo as run_demo
    from mvsent.report.funnel import funnel_document, render_funnel
    from mvsent.report.results import render_results

    result = run_demo(out, n_rows=rows, epochs=epochs, seed=seed, engine=engine.chosen(), quiet=quiet)
    if as_json:
        document = {
            "folder": str(result.folder),
            "seconds": round(result.seconds, 1),
            "datasets": [funnel_document(built.folder, built.manifest) for built in result.datasets],
            "metrics": [evaluation.document for evaluation in result.evaluations],
            "pictures": [str(picture) for one in result.evaluations for picture in one.pictures],
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for built in result.datasets:
        typer.echo(render_funnel(built.folder, built.manifest) + "\n")
    for evaluation in result.evaluations:
        typer.echo(render_results(evaluation.document) + "\n")
    typer.echo(f"Everything is in {result.folder}, made in {result.seconds:.0f} s. Look at:")
    for evaluation in result.evaluations:
        for page in (evaluation.folder / "report.html", *evaluation.pictures):
            typer.echo(f"  {page}")


@command("replay", "Set up")
def replay(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    photos: Annotated[int, typer.Option(min=0, help="Number of photos that each search finds.")] = 120,
    side: Annotated[int, typer.Option(min=8, max=4096, help="Longer side of the largest pictures.")] = 1024,
    quirks: Annotated[
        float, typer.Option(min=0, help="Factor on how often an answer is odd; 0: never.")
    ] = 1.0,
    like_reality: Annotated[
        bool,
        options.switch(
            "--like-reality",
            "Behave as the services do on an ordinary day: photos with one word of the pair, albums, "
            "watermarks, empty and short pages, totals that are off, a limited picture host.",
        ),
    ] = False,
    fault: Annotated[
        list[str] | None,
        options.flag("--fault", "What goes wrong, and how often; repeatable.", metavar="NAME=RATE"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Run a local stand-in for Flickr and Getty.

    It draws its own pictures and runs until Ctrl-C. It prints environment variables: set them in another
    shell, and build-flickr and build-getty there ask the stand-in. fetch needs --allow-host with its address,
    which is printed, too. docs/replay.md lists the faults.

    Example: mvsent replay --port 8765 --fault image-404=0.02 --fault api-429-seconds=0.1
    """
    import threading
    from contextlib import suppress
    from dataclasses import replace
    from shlex import quote

    from mvsent.errors import UsageError
    from mvsent.lexicons import load_anps, load_keywords
    from mvsent.standin.faults import ORDINARY, Faults
    from mvsent.standin.replay import Replay
    from mvsent.standin.world import World

    sentiments = {term.query: term.sentiment for term in (*load_keywords(), *load_anps())}
    world = World(sentiments, seed=seed, photos=photos, side=side, quirks=quirks, like_reality=like_reality)
    faults = replace(ORDINARY if like_reality else Faults(), seed=seed).with_rates(fault or [])
    try:
        server = Replay(world, faults=faults, port=port)
    except OSError as error:
        raise UsageError(f"port {port}: {error.strerror}", "Choose another one, or --port 0") from None
    with server, suppress(KeyboardInterrupt):
        given = server.environment()
        lines = [f"export {name}={quote(value)}" for name, value in given.items()]
        place = server.address.partition("//")[2]
        lines.append(f"# The pictures are at {place}, which mvsent fetch asks with --allow-host {place}")
        typer.echo(json.dumps(given) if as_json else "\n".join(lines))
        threading.Event().wait()
