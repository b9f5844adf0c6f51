"""Messages about one clustering of rows: a line of text, or JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gpukmeans_cli.terminal.messages import print_line, warn

if TYPE_CHECKING:
    from gpukmeans_cli.rows.run import ClusterResult


@dataclass(frozen=True, kw_only=True)
class ClusterReporter:
    """Prints results and errors on the main rank only, since they are equal on all ranks."""

    is_main: bool
    as_json: bool
    quiet: bool
    verbose: bool
    inputs: list[str]

    def done(self, outcome: "ClusterResult") -> None:
        """Print the result."""
        if not self.is_main:
            return
        if self.as_json:
            typer.echo(json.dumps(outcome.as_json()))
        elif not self.quiet:
            print_line(outcome.line())

    def failed(self, problem: str) -> None:
        """Print an error."""
        if not self.is_main:
            return
        warn(problem)
        if self.as_json:
            typer.echo(json.dumps({"inputs": self.inputs, "error": problem}))

    def interrupted(self, checkpoint: Path | None, *, terminated: bool, n_ranks: int) -> None:
        """Print the cause of the interruption, and how to continue if the checkpoint file exists.

        With several ranks, SIGTERM often comes from torchrun after another rank has failed.
        """
        if not self.is_main or self.quiet:
            return
        cause = "terminated" if terminated else "interrupted"
        if terminated and n_ranks > 1:
            cause += ", perhaps because another rank has ended"
        resumable = checkpoint is not None and checkpoint.is_file()
        warn(f"{cause}; --resume continues from {checkpoint}" if resumable else cause)
