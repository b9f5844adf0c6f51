import dataclasses
import json
from pathlib import Path

import pytest

from gpukmeans_cli.rows.reporter import ClusterReporter
from gpukmeans_cli.rows.run import ClusterResult

OUTCOME = ClusterResult(
    inputs=["x.npy"],
    rows=600,
    dimensions=3,
    clusters=5,
    inertia=12.5,
    n_iter=4,
    converged=True,
    seconds=0.5,
    rows_per_s=6000.0,
    ranks=1,
    device="cpu",
    output="centers.safetensors",
    labels=None,
)
MAIN = ClusterReporter(is_main=True, as_json=False, quiet=False, verbose=False, inputs=["x.npy", "y.npy"])


def reporter(**changes):
    return dataclasses.replace(MAIN, **changes)


def test_a_result_is_one_line_on_stdout(capsys):
    MAIN.done(OUTCOME)
    assert capsys.readouterr() == (f"{OUTCOME.line()}\n", "")


@pytest.mark.parametrize("quiet", [True, False])
def test_json_is_printed_instead_of_the_line_and_also_with_quiet(capsys, quiet):
    reporter(as_json=True, quiet=quiet).done(OUTCOME)
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (OUTCOME.as_json(), "")


@pytest.mark.parametrize("quiet", [True, False])
def test_an_error_is_printed_also_with_quiet(capsys, quiet):
    reporter(quiet=quiet).failed("x.npy: is gone")
    assert capsys.readouterr() == ("", "gpukmeans: x.npy: is gone\n")
    reporter(quiet=quiet, as_json=True).failed("x.npy: is gone")
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (
        {"inputs": ["x.npy", "y.npy"], "error": "x.npy: is gone"},
        "gpukmeans: x.npy: is gone\n",
    )


@pytest.mark.parametrize(
    ("terminated", "n_ranks", "cause"),
    [
        (False, 1, "interrupted"),
        (False, 2, "interrupted"),
        (True, 1, "terminated"),
        (True, 2, "terminated, perhaps because another rank has ended"),
    ],
)
def test_an_interruption_names_its_cause_and_an_existing_checkpoint(capsys, tmp_path, terminated, n_ranks, cause):
    (tmp_path / "state").touch()
    for checkpoint in (None, tmp_path / "missing"):
        MAIN.interrupted(checkpoint, terminated=terminated, n_ranks=n_ranks)
        assert capsys.readouterr() == ("", f"gpukmeans: {cause}\n")
    MAIN.interrupted(tmp_path / "state", terminated=terminated, n_ranks=n_ranks)
    assert capsys.readouterr() == ("", f"gpukmeans: {cause}; --resume continues from {tmp_path / 'state'}\n")
    reporter(quiet=True).interrupted(tmp_path / "state", terminated=terminated, n_ranks=n_ranks)
    assert capsys.readouterr() == ("", "")


def test_only_the_main_rank_prints(capsys):
    other = reporter(is_main=False, as_json=True)
    other.done(OUTCOME)
    other.failed("x.npy: is gone")
    other.interrupted(Path("state"), terminated=True, n_ranks=2)
    assert capsys.readouterr() == ("", "")
