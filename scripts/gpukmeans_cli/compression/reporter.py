"""Output of the command for each file: a line of text or JSON, and warnings."""

import json
from dataclasses import dataclass

import typer

from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.result import CompressionResult
from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.terminal.formatting import format_count
from gpukmeans_cli.terminal.messages import print_line, warn, warn_ignored_frames


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Prints the result of each file. Errors are printed with every setting."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    text_to_stderr: bool = False
    """Whether lines of text go to stderr, since an image goes to stdout."""

    def done(self, result: CompressionResult) -> None:
        """Report a compressed file."""
        if not self.quiet:
            self._warn_of_details(result)
        if self.as_json:
            typer.echo(json.dumps(result.report.as_json()))
        elif not self.quiet:
            (warn if self.text_to_stderr else print_line)(result.report.line())

    def failed(self, job: Job, error: ImageError) -> None:
        """Report a file that could not be compressed; if verbose, with the traceback of an unexpected exception."""
        warn(f"{job.source}: {error}")
        if self.verbose and error.traceback is not None:
            typer.echo(error.traceback, err=True, nl=False)
        if self.as_json:
            typer.echo(json.dumps({"input": str(job.source), "error": str(error)}))

    def skipped(self, job: Job) -> None:
        """Report a file that was skipped, since its output exists."""
        if self.verbose and not self.quiet:
            warn(f"{job.source}: skipped, {job.output} exists")
        if self.as_json:
            typer.echo(json.dumps({"input": str(job.source), "output": str(job.output), "skipped": True}))

    def _warn_of_details(self, result: CompressionResult) -> None:
        """Print dropped frames and, if verbose, chunks left out, engine, end of the loop and stages on stderr."""
        report = result.report
        warn_ignored_frames(report.input, result.dropped_frames + 1)
        if result.broken_animation:
            warn(f"{report.input}: took the default image, since the frames of the animation are broken")
        if self.verbose:
            for chunks in result.left_out:
                warn(f"{report.input}: {chunks}")
            end = "converged" if report.converged else "stopped at --max-iter"
            stages = ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in result.stages.items())
            warn(f"{report.input}: engine {result.engine}")
            warn(f"{report.input}: {end} after {format_count(report.iterations, 'iteration')}")
            warn(f"{report.input}: {stages}")
