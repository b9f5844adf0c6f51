"""What the command says of each file: a line for people or for programs, and notes beside it."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.result import counted
from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.terminal.messages import say, warn, warn_of_frames

if TYPE_CHECKING:
    from gpukmeans_cli.compression.pipeline import Outcome


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How the command speaks. Errors are told in any case."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    aside: bool = False
    """Whether lines for people go to stderr, since stdout is for a picture."""

    def done(self, outcome: "Outcome") -> None:
        """Tell of a file that was compressed."""
        report = outcome.report
        if not self.quiet:
            self._note(outcome)
        if self.as_json:
            typer.echo(json.dumps(report.as_json()))
        elif not self.quiet:
            (warn if self.aside else say)(report.line())

    def failed(self, job: Job, error: ImageError) -> None:
        """Tell of a file that could not be."""
        warn(f"{job.source}: {error}")
        if self.as_json:
            typer.echo(json.dumps({"input": str(job.source), "error": str(error)}))

    def skipped(self, job: Job) -> None:
        """Tell of a file that was passed over, since its output is there."""
        if self.verbose and not self.quiet:
            warn(f"{job.source}: skipped, {job.target} is there")
        if self.as_json:
            typer.echo(json.dumps({"input": str(job.source), "output": str(job.target), "skipped": True}))

    def _note(self, outcome: "Outcome") -> None:
        """What is worth knowing beside the report, on stderr."""
        name = outcome.report.input
        warn_of_frames(name, outcome.frames_left_out + 1)
        if self.verbose:
            ended = "converged" if outcome.report.converged else "stopped at --max-iter"
            stages = ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in outcome.stages.items())
            warn(f"{name}: engine {outcome.engine}")
            warn(f"{name}: {ended} after {counted(outcome.report.iterations, 'iteration')}")
            warn(f"{name}: {stages}")
