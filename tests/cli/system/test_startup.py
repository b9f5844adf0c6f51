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
def test_import_torch_restarts_the_collector_and_respects_settings_of_the_user(setting, spins, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    run = subprocess.run([sys.executable, "-c", PRINT_SETTING], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True", "True", spins]


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize("pressed", [True, False])
def test_ctrl_c_during_the_import_of_torch_is_raised_after_it(pressed, tmp_path, monkeypatch):
    press = "os.kill(os.getpid(), signal.SIGINT)" if pressed else ""
    # Stands in for torch, which treats an interrupted import of numpy as a missing numpy.
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


def test_a_second_import_of_torch_changes_nothing():
    import torch  # noqa: F401

    from gpukmeans_cli.system.startup import import_torch

    frozen = gc.get_freeze_count()
    import_torch()
    assert gc.get_freeze_count() == frozen


def test_sigterm_raises_an_interrupt_inside_the_block():
    from gpukmeans_cli.system.startup import sigterm_as_interrupt

    def terminate():
        with sigterm_as_interrupt():
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        terminate()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_sigterm_handler_set_before_stays_in_use():
    from gpukmeans_cli.system.startup import sigterm_as_interrupt

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.signal(signal.SIGTERM, before) == signal.SIG_IGN


@pytest.mark.parametrize(("statement", "out"), [("sys.stdout.write('all')", "all"), ("sys.stdout = None", "")])
def test_exit_now_flushes_the_streams_and_skips_atexit_functions(statement, out, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = (
        "import atexit, sys; from gpukmeans_cli.system.startup import exit_now; "
        "atexit.register(print, 'slowly', flush=True); "
        f"{statement}; sys.stderr.write('error'); exit_now(3)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (3, out, "error")
