"""The command `gpukmeans` and its subcommands. Help, version and argument errors do not import torch."""

import contextlib
import errno
import os
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
from gpukmeans_cli.system.startup import exit_now
from gpukmeans_cli.terminal.messages import warn

app = typer.Typer(
    help="K-means on a GPU or CPU: compress images to few colors, or cluster the rows of files.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for _subcommand in (compress, demo, palette, compare, report, cluster):
    app.command()(_subcommand)


def _print_version(requested: bool) -> None:
    if requested:
        import zlib

        import deflate
        import zopfli

        # The bytes of written files depend on these versions, too.
        versions = f"deflate {deflate.__version__}, zlib {zlib.ZLIB_RUNTIME_VERSION}, zopfli {zopfli.__version__}"
        typer.echo(f"gpukmeans {_version()} ({versions})")
        raise typer.Exit


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gpukmeans")  # does not import torch
    except PackageNotFoundError:  # a bare checkout
        from gpukmeans import __version__

        return __version__


def _print_help(context: typer.Context, requested: bool) -> None:
    if requested:
        typer.echo(context.get_help())
        raise typer.Exit


# The options of the app are parsed before a subcommand, even if they are not given. Typer 0.29 imports pydantic to
# convert the value of its own help option, which would delay the help of a subcommand.
@app.callback(add_help_option=False)
def _gpukmeans(
    help: Annotated[
        bool,
        typer.Option("-h", "--help", callback=_print_help, is_eager=True, help="Show this message and exit."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("-V", "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def _command(args: Sequence[str]) -> Any:
    """The parser of the app, without typer's options for shell completion unless one is given.

    The help does not show these options. Typer 0.29 would import pydantic to convert their values, as for its own help
    option, and so delay the help of a subcommand.
    """
    command = typer.main.get_command(app)
    given = {arg.lstrip("-").partition("=")[0].replace("-", "_") for arg in args}
    command.params = [
        option
        for option in command.params
        if option.name not in ("install_completion", "show_completion") or option.name in given
    ]
    return command


def main(args: Sequence[str] | None = None) -> None:
    """Run the command and exit with 0 (success), 1 (a file failed), 2 (wrong arguments) or 130 (interrupted)."""
    try:
        # By default, under `python -m` the name of the program would be the module, which shells cannot complete.
        code = _command(sys.argv[1:] if args is None else args)(args, prog_name="gpukmeans", standalone_mode=False)
    except typer.TyperException as error:
        # One line instead of usage and a box, so that scripts can log it.
        if message := error.format_message():  # empty after help was printed
            warn_once(_with_advice(re.sub(r"\s*\n\s*", " ", message)))
        sys.exit(2)
    except RankError as error:
        warn(str(error))
        sys.exit(1)
    except OSError as error:
        # Errors of other files have been handled, so this is an error of stdout, such as a full disk.
        sys.stdout = None  # otherwise Python would write the rest at exit and print a traceback
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; if standard output is on the full disk, redirect it" if is_full else ""
        warn(f"cannot continue ({error.strerror or error}){advice}")
        sys.exit(1)
    sys.exit(code)


def _with_advice(message: str) -> str:
    """The message of the parser. If an image was given as the command, it also names the command to use."""
    message = message.replace("Value error, ", "")  # of pydantic, in typer 0.29
    command = re.fullmatch(r"No such command '(.*)'\.", message)
    if command and (os.path.splitext(command[1])[1] or os.path.lexists(command[1])):
        return f"{message} To compress an image, run gpukmeans compress {command[1]}"
    return message


def run(args: Sequence[str] | None = None) -> None:
    """Run `main`, then exit the process without freeing all objects, which would take time."""
    try:
        main(args)
    except SystemExit as end:
        if end.code in (0, 1):
            with contextlib.suppress(OSError):  # Python itself reports a stdout that is full or closed
                exit_now(end.code)
        raise


if __name__ == "__main__":
    run()
