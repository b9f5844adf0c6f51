"""What became of many files together."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gpukmeans_cli.compression.result import Report, format_sizes


@dataclass(kw_only=True)
class Summary:
    """Counts what becomes of files as it is told."""

    planned: int
    """Files in all."""
    done: int = 0
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    """The name of each file that failed, and why."""
    bytes_in: int = 0
    bytes_out: int = 0
    """Both of the files that were done."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage, of all threads together."""

    def add(self, report: Report, stages: dict[str, float]) -> None:
        """Count a file that was done."""
        self.done += 1
        self.bytes_in += report.bytes_in
        self.bytes_out += report.bytes_out
        self._add_stages(stages)

    def lines(self, seconds: float) -> list[str]:
        """What became of the files in as many seconds, then each that failed."""
        left = self.planned - self.done - self.skipped - len(self.failures)
        others = {"skipped": self.skipped, "failed": len(self.failures), "not begun or given up": left}
        counts = "".join(f", {count:,} {what}" for what, count in others.items() if count)
        sizes = ""
        if self.done:
            sizes = f", {format_sizes(self.bytes_in, self.bytes_out)}"
        stages = ", ".join(f"{stage} {spent:.2f}" for stage, spent in self.stages.items())
        by_stage = f" ({stages})" if stages else ""
        failed = [f"failed: {name}: {why}" for name, why in self.failures]
        return [f"{self.done:,} of {self.planned:,} files done{counts}{sizes}, {seconds:.2f} s{by_stage}", *failed]

    @staticmethod
    def of(parts: "Iterable[Summary]") -> "Summary":
        """What became of the files of all these, one after the other."""
        total = Summary(planned=0)
        for part in parts:
            total.planned += part.planned
            total.done += part.done
            total.skipped += part.skipped
            total.failures += part.failures
            total.bytes_in += part.bytes_in
            total.bytes_out += part.bytes_out
            total._add_stages(part.stages)
        return total

    def _add_stages(self, stages: dict[str, float]) -> None:
        for stage, seconds in stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds
