"""The console command and its subcommands. Imports nothing slow: help and version answer at once."""

import contextlib
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from gpukmeans_cli.commands.cluster import cluster
from gpukmeans_cli.commands.compare import compare
from gpukmeans_cli.commands.compress import compress
from gpukmeans_cli.commands.demo import demo
from gpukmeans_cli.commands.palette import palette
from gpukmeans_cli.commands.report import report
from gpukmeans_cli.system.rank_env import RankError
from gpukmeans_cli.system.rank_store import warn_once
from gpukmeans_cli.system.startup import leave
from gpukmeans_cli.terminal.messages import warn

app = typer.Typer(
    help="Pictures of few colors in much smaller files, and centers of rows in files, by K-means on a GPU or CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(compress)
app.command()(demo)
app.command()(palette)
app.command()(compare)
app.command()(report)
app.command()(cluster)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gpukmeans {_version()}")
        raise typer.Exit


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gpukmeans")  # without importing torch
    except PackageNotFoundError:  # a bare checkout
        from gpukmeans import __version__

        return __version__


@app.callback()
def _gpukmeans(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _command() -> Any:
    """The app, in whose help the options of typer for the completion of shells do not stand before our own."""
    command = typer.main.get_command(app)
    for option in command.params:
        if option.name in ("install_completion", "show_completion"):
            option.hidden = True  # pyright: ignore[reportAttributeAccessIssue] # of options, which these are
    return command


def main(args: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 all done, 1 a file failed, 2 nothing was done, 130 interrupted."""
    try:
        # By its name even where it is run as a module, whose name no shell would complete.
        code = _command()(args, prog_name="gpukmeans", standalone_mode=False)
    except typer.TyperException as error:
        # One line in place of usage and a box, so that scripts can log it.
        if message := error.format_message():  # none where help was printed in its place
            warn_once(re.sub(r"\s*\n\s*", " ", message))
        sys.exit(2)
    except RankError as error:
        warn(str(error))
        sys.exit(1)
    except OSError as error:
        # Files have errors of their own by now; this is stdout, perhaps a file on a full disk.
        sys.stdout = None  # else Python would try to write the rest at exit, and complain
        warn(f"cannot go on ({error.strerror}); if it is the output that is full, send it elsewhere")
        sys.exit(1)
    sys.exit(code)


def run(args: Sequence[str] | None = None) -> None:
    """`main` as a process of its own, which ends sooner."""
    try:
        main(args)
    except SystemExit as end:
        if end.code in (0, 1):
            with contextlib.suppress(OSError):  # Python has its own words for a stdout that is full or gone
                leave(end.code)
        raise


if __name__ == "__main__":
    run()
