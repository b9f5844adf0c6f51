"""Output of the command for each file: a line of text or JSON, and warnings."""

import json
from dataclasses import dataclass

import typer

from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.result import CompressionResult
from gpukmeans_cli.system.atomic_files import ImageError, stream_name
from gpukmeans_cli.terminal.formatting import format_count
from gpukmeans_cli.terminal.messages import print_line, warn, warn_ignored_frames

# PSNR in dB below which an image can hardly be recognized. A photo in four greys has about 20.
_POOR_PSNR = 20


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Prints the result of each file. Errors are printed with every setting."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    text_to_stderr: bool = False
    """Whether lines of text go to stderr, since an image goes to stdout."""
    max_bytes: bool = False
    """Whether the number of colors was chosen by `--max-bytes`, so that a poor result needs a warning."""

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
        warn(f"{stream_name(job.source)}: {error}")
        if self.verbose and error.traceback is not None:
            typer.echo(error.traceback, err=True, nl=False)
        if self.as_json:
            typer.echo(json.dumps({"input": str(job.source), "error": str(error)}))

    def skipped(self, job: Job) -> None:
        """Report a skipped file: its output exists, or it is the output of an earlier run."""
        if self.verbose and not self.quiet:
            reason = "the output of an earlier run" if job.is_earlier_output else f"{job.output} exists"
            warn(f"{job.source}: skipped, {reason}")
        if self.as_json and not job.is_earlier_output:
            typer.echo(json.dumps({"input": str(job.source), "output": str(job.output), "skipped": True}))

    def _warn_of_details(self, result: CompressionResult) -> None:
        """Print warnings.

        If verbose, also print the chunks of a PNG input that were left out, the tries for a target (`targets`), the
        engine, the iterations and the times.
        """
        name = stream_name(result.report.input)
        report = result.report
        warn_ignored_frames(name, result.dropped_frames + 1)
        if result.broken_animation:
            warn(f"{name}: took the default image, since the frames of the animation are broken")
        if result.lacks_kernels:
            warn(f"{name}: optimized dithering is slow without the compiled kernels; --effort 0 is quick")
        if self.max_bytes and report.psnr is not None and report.psnr < _POOR_PSNR:
            colors = format_count(report.colors_out, "color")
            warn(
                f"{name}: --max-bytes leaves {colors} at {report.psnr:.2f} dB, hardly the same image; allow more bytes"
            )
        if self.verbose:
            for phrase in (*result.left_out, *result.tries):
                warn(f"{name}: {phrase}")
            end = "converged" if report.converged else "stopped at --max-iter"
            stages = ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in result.stages.items())
            warn(f"{name}: engine {result.engine}")
            warn(f"{name}: {end} after {format_count(report.iterations, 'iteration')}")
            warn(f"{name}: {stages}")
