import gc
import subprocess
import sys

import pytest

PRINT_SETTING = (
    "import gc, os, sys; from gpukmeans_cli.runtime import import_torch; import_torch(); "
    "print('torch' in sys.modules, gc.isenabled(), gc.get_freeze_count() > 10_000, os.environ.get('GOMP_SPINCOUNT'))"
)


@pytest.mark.parametrize(
    ("setting", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_torch_is_there_the_collector_runs_on_and_the_choices_of_the_user_stand(setting, spins, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    run = subprocess.run([sys.executable, "-c", PRINT_SETTING], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True", "True", spins]


def test_where_torch_is_there_already_nothing_changes():
    import torch  # noqa: F401

    from gpukmeans_cli.runtime import import_torch

    frozen = gc.get_freeze_count()
    import_torch()
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize(("last_words", "out"), [("sys.stdout.write('all')", "all"), ("sys.stdout = None", "")])
def test_leaving_prints_what_is_left_and_takes_nothing_down(last_words, out, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = (
        "import atexit, sys; from gpukmeans_cli.runtime import leave; atexit.register(print, 'slowly', flush=True); "
        f"{last_words}; sys.stderr.write('said'); leave(3)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (3, out, "said")
