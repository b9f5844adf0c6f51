"""Totals over the results of many files."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gpukmeans_cli.compression.result import CompressionReport
from gpukmeans_cli.terminal.formatting import format_sizes


@dataclass(kw_only=True)
class Summary:
    """Counts, sizes and times of a batch of files, updated after each file."""

    planned: int
    """Number of files in the batch."""
    done: int = 0
    kept: int = 0
    """Number of done files that are kept as they are, since a palette would not make them smaller."""
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Name and error of each file that failed."""
    bytes_in: int = 0
    bytes_out: int = 0
    """Total over the done files, like `bytes_in`."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage, added over all workers."""

    def add(self, report: CompressionReport, stages: dict[str, float]) -> None:
        """Count a compressed file."""
        self.done += 1
        self.kept += report.kept and report.bytes_out == report.bytes_in
        self.bytes_in += report.bytes_in
        self.bytes_out += report.bytes_out
        self._add_stages(stages)

    def lines(self, seconds: float) -> list[str]:
        """The summary of a batch that took `seconds`, then a line for each failure."""
        unfinished = self.planned - self.done - self.skipped - len(self.failures)
        kept = "kept as it is" if self.kept == 1 else "kept as they are"
        others = {kept: self.kept, "skipped": self.skipped, "failed": len(self.failures), "not finished": unfinished}
        counts = "".join(f", {count:,} {what}" for what, count in others.items() if count)
        sizes = f", {format_sizes(self.bytes_in, self.bytes_out)}" if self.done else ""
        stages = ", ".join(f"{stage} {spent:.2f}" for stage, spent in self.stages.items())
        by_stage = f" ({stages})" if stages else ""
        failed = [f"failed: {name}: {error}" for name, error in self.failures]
        return [f"{self.done:,} of {self.planned:,} files done{counts}{sizes}, {seconds:.2f} s{by_stage}", *failed]

    @staticmethod
    def total(summaries: "Iterable[Summary]") -> "Summary":
        """The sum of several summaries. Failures are in the order of the summaries."""
        total = Summary(planned=0)
        for summary in summaries:
            total.planned += summary.planned
            total.done += summary.done
            total.kept += summary.kept
            total.skipped += summary.skipped
            total.failures += summary.failures
            total.bytes_in += summary.bytes_in
            total.bytes_out += summary.bytes_out
            total._add_stages(summary.stages)
        return total

    def _add_stages(self, stages: dict[str, float]) -> None:
        for stage, seconds in stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds
