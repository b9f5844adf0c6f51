from types import SimpleNamespace

from gpukmeans_cli.compression.summary import Summary


def report(bytes_in, bytes_out, kept=False):
    return SimpleNamespace(bytes_in=bytes_in, bytes_out=bytes_out, kept=kept)


def test_files_bytes_and_stages_are_added():
    summary = Summary(planned=2)
    summary.add(report(1000, 300), {"read": 0.5, "encode": 1.0})
    summary.add(report(3000, 700), {"read": 0.25})
    assert summary.lines(2) == ["2 of 2 files done, 4.0 kB -> 1.0 kB (25%), 2.00 s (read 0.75, encode 1.00)"]


def test_skipped_failed_and_unfinished_files_are_counted_and_failures_are_listed():
    summary = Summary(planned=7, skipped=2, failures=[("a.png", "is empty"), ("b.png", "is a folder")])
    summary.add(report(1000, 2000), {"read": 1.0})
    assert summary.lines(0.5) == [
        "1 of 7 files done, 2 skipped, 2 failed, 2 not finished, 1.0 kB -> 2.0 kB (200%, larger), 0.50 s (read 1.00)",
        "failed: a.png: is empty",
        "failed: b.png: is a folder",
    ]


def test_files_that_are_kept_as_they_are_are_counted():
    one, other = Summary(planned=2), Summary(planned=2)
    one.add(report(1000, 1000, kept=True), {})
    one.add(report(1000, 800, kept=True), {})  # without its metadata
    assert one.lines(0) == ["2 of 2 files done, 1 kept as it is, 2.0 kB -> 1.8 kB (90%), 0.00 s"]
    other.add(report(500, 500, kept=True), {})
    total = Summary.total([one, other]).lines(0)
    assert total == ["3 of 4 files done, 2 kept as they are, 1 not finished, 2.5 kB -> 2.3 kB (92%), 0.00 s"]


def test_the_total_of_summaries_adds_counts_and_lists_all_failures():
    one = Summary(planned=3, failures=[("a.png", "is empty")])
    one.add(report(1000, 300), {"read": 0.5, "encode": 1.0})
    other = Summary(planned=4, skipped=2, failures=[("b.png", "is a folder")])
    other.add(report(3000, 700), {"read": 0.25})
    assert Summary.total([one, other]).lines(2) == [
        "2 of 7 files done, 2 skipped, 2 failed, 1 not finished, "
        "4.0 kB -> 1.0 kB (25%), 2.00 s (read 0.75, encode 1.00)",
        "failed: a.png: is empty",
        "failed: b.png: is a folder",
    ]
    assert one.lines(2)[0].startswith("1 of 3 files done")


def test_a_summary_without_done_files_has_no_sizes():
    assert Summary(planned=3, skipped=3).lines(0) == ["0 of 3 files done, 3 skipped, 0.00 s"]
