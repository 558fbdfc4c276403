"""The `mvsent` command: parse, call one pipeline, print. Nothing heavy is imported at the top here."""

import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, cast

import typer

from mvsent import __version__
from mvsent.cli import build, label, learn, look, serve, share, use
from mvsent.errors import MvsentError, printable

app = typer.Typer(
    name="mvsent",
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
    """Build image+text sentiment datasets, and train and evaluate models on them."""


# BadParameter < UsageError < ClickException: Typer carries its own click, and does not export the base.
ClickException = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])

INTERRUPTED = 130
BROKEN_PIPE = 141  # as the shell says of a program whose reader went away
# What a write can fail for that is no defect here; its error need not name the file.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)

for stage in (build, label, learn, look, share, use, serve):
    stage.register(app)


class PrintableFormatter(logging.Formatter):
    """Log lines repeat paths, lexicon words and servers' answers: they cannot steer the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def main() -> None:
    """Run the command line; every expected failure is one line on stderr and an exit code."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("mvsent").setLevel(
        logging.WARNING if {"-q", "--quiet"} & set(sys.argv) else logging.INFO
    )
    code = exit_code(lambda: app(standalone_mode=False))
    if code == BROKEN_PIPE:  # Python flushes once more when it ends, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def exit_code(run: Callable[[], object]) -> int:
    """Run `run`, print its expected failure as one line, and say how the process should end.

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
            raise
        return _fail(
            f"{error.filename or 'output'}: {error.strerror}. Mend that and run the same command again", 1
        )
    if result == INTERRUPTED:  # Typer returns it rather than raise KeyboardInterrupt
        return _fail(
            "interrupted. Run the same command again: a build or refresh goes on where it was, a training "
            "does with --resume, anything else begins anew",
            INTERRUPTED,
        )
    return result if isinstance(result, int) else 0


def _fail(line: str, code: int) -> int:
    typer.echo(f"mvsent: {printable(line)}", err=True)
    return code
