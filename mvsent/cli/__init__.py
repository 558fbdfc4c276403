"""The `mvsent` command: parse, call one pipeline, print. Nothing heavy is imported at the top here."""

import errno
import logging
import sys
from collections.abc import Callable
from typing import Annotated, cast

import typer

from mvsent import __version__
from mvsent.cli import build, label, learn, look
from mvsent.errors import MvsentError

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

for stage in (build, label, learn, look):
    stage.register(app)


def main() -> None:
    """Run the command line; every expected failure is one line on stderr and an exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mvsent").setLevel(
        logging.WARNING if {"-q", "--quiet"} & set(sys.argv) else logging.INFO
    )
    sys.exit(exit_code(lambda: app(standalone_mode=False)))


def exit_code(run: Callable[[], object]) -> int:
    """Run `run`, print its expected failure as one line, and say how the process should end."""
    try:
        result = run()
    except MvsentError as error:
        return _fail(str(error), error.exit_code)
    except ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted. The same command continues where it can", 130)
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            raise
        return _fail(
            f"{error.filename or 'output'}: {error.strerror}. Mend that and run the same command again", 1
        )
    return result if isinstance(result, int) else 0


def _fail(line: str, code: int) -> int:
    typer.echo(f"mvsent: {line}", err=True)
    return code
