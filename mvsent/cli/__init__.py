"""The `mvsent` command: parse, call one pipeline, print. Nothing heavy is imported at the top here."""

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer

from mvsent import __version__
from mvsent.cli import build, label, learn, learn_benchmark, look, set_up, share  # noqa: F401 - they declare the commands
from mvsent.cli.command import Commands, commands
from mvsent.errors import MvsentError, PrintableFormatter, printable
from mvsent.storage import problem as remote_problem

app = typer.Typer(
    name="mvsent",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def mvsent(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Build image+text sentiment datasets, and train and evaluate models on them.

    Folders of datasets, runs and exports may lie in object storage: s3://BUCKET/NAME, gs://BUCKET/NAME.
    """


# BadParameter < UsageError < ClickException: Typer carries its own click, and does not export the base.
ClickException = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])

INTERRUPTED = 130
BROKEN_PIPE = 141  # as the shell says of a program whose reader went away
# What a write can fail for that is no defect here; its error need not name the file.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


def main() -> None:
    """Run the command line; every expected failure is one line on stderr and an exit code."""
    for stream in ("stdout", "stderr"):  # None where the shell closed it (>&-)
        if getattr(sys, stream) is None:
            setattr(sys, stream, Path(os.devnull).open("w"))  # noqa: SIM115 - open as long as the process
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's word is the user's
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("mvsent").setLevel(
        logging.WARNING if {"-q", "--quiet"} & set(sys.argv) else logging.INFO
    )
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    code = exit_code(_run, command)
    if code == BROKEN_PIPE:  # Python flushes once more when it ends, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run() -> object:
    """Run the command. One more Ctrl-C after it was interrupted would show what Python does at its end."""
    result: object = INTERRUPTED
    try:
        result = app(standalone_mode=False, color=colours())
    finally:
        if result == INTERRUPTED:  # Typer returns it rather than raise KeyboardInterrupt
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    return result


def colours() -> bool | None:
    """Value of Typer's `color`: False if the environment wants no colours, None if the terminal decides."""
    unwanted = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if unwanted else None


def exit_code(run: Callable[[], object], command: str = "") -> int:
    """Run `run`, print its expected failure as one line, and say how the process should end.

    `command` is its name: an interrupted one is told whether it goes on when it is typed again.

    Raises: OSError without a file name, and everything that nobody foresaw.
    """
    try:
        result = run()
        sys.stdout.flush()
    except MvsentError as error:
        return _fail(str(error), error.exit_code)
    except ClickException as error:
        error.message = printable(error.message)
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except BrokenPipeError:
        result = BROKEN_PIPE
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        result = BROKEN_PIPE  # Typer caught it
    except OSError as error:
        if error.filename is None and error.errno not in UNWRITABLE:
            if (known := remote_problem(error)) is None or "upath" not in sys.modules:
                raise
            return _fail(str(known), known.exit_code)
        return _fail(
            f"{error.filename or 'output'}: {error.strerror}. Correct that, then run the same command again",
            1,
        )
    except Exception as error:
        if (known := remote_problem(error)) is None:
            raise
        return _fail(str(known), known.exit_code)
    if result == INTERRUPTED:
        interrupted = commands().get(command)
        again = "continues" if interrupted and interrupted.continues else "begins anew"
        return _fail(f"interrupted. The same command {again}", INTERRUPTED)
    return result if isinstance(result, int) else 0


def _fail(line: str, code: int) -> int:
    typer.echo(typer.style("mvsent:", fg="red") + f" {printable(line)}", err=True, color=colours())
    return code
