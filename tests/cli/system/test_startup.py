import gc
import os
import signal
import subprocess
import sys

import pytest

PRINT_SETTING = (
    "import gc, os, sys; from gpukmeans_cli.system.startup import import_torch; import_torch(); "
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


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize("pressed", [True, False])
def test_ctrl_c_waits_until_torch_is_there_as_a_whole(pressed, tmp_path, monkeypatch):
    press = "os.kill(os.getpid(), signal.SIGINT)" if pressed else ""
    # In place of torch, which takes an interruption for a numpy that is missing.
    (tmp_path / "torch.py").write_text(
        f"import os, signal\ntry: {press or 'pass'}\nexcept BaseException: numpy = None\nelse: numpy = 'whole'\n"
    )
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); ended = 'done'\n"
        "from gpukmeans_cli.system.startup import import_torch\n"
        "try: import_torch()\n"
        "except KeyboardInterrupt: ended = 'interrupted'\n"
        "print(ended, sys.modules['torch'].numpy, signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["interrupted" if pressed else "done", "whole", "True"]


def test_where_torch_is_there_already_nothing_changes():
    import torch  # noqa: F401

    from gpukmeans_cli.system.startup import import_torch

    frozen = gc.get_freeze_count()
    import_torch()
    assert gc.get_freeze_count() == frozen


def test_to_be_told_to_end_is_an_interruption_for_a_while():
    from gpukmeans_cli.system.startup import termination_interrupts

    def told():
        with termination_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        told()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_it_means_already_to_be_told_to_end_stays():
    from gpukmeans_cli.system.startup import termination_interrupts

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with termination_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.signal(signal.SIGTERM, before) == signal.SIG_IGN


@pytest.mark.parametrize(("last_words", "out"), [("sys.stdout.write('all')", "all"), ("sys.stdout = None", "")])
def test_leaving_prints_what_is_left_and_takes_nothing_down(last_words, out, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = (
        "import atexit, sys; from gpukmeans_cli.system.startup import leave; "
        "atexit.register(print, 'slowly', flush=True); "
        f"{last_words}; sys.stderr.write('said'); leave(3)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (3, out, "said")
