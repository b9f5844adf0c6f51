import errno
import os
import re
import shutil
import subprocess
import sys
import zlib
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

import gpukmeans
import gpukmeans_cli
from gpukmeans_cli.main import main
from gpukmeans_cli.main import run as run_process

COMMAND = Path(sys.executable).parent / "gpukmeans"


@pytest.fixture
def run(capsys):
    """Runs the command, and gives exit code, stdout and stderr without color codes."""

    def run(*args):
        with pytest.raises(SystemExit) as caught:
            main(args)
        return caught.value.code, *(re.sub(r"\x1b\[[0-9;]*m", "", text) for text in capsys.readouterr())

    return run


def start(*args, **options):
    return subprocess.run(args, stderr=subprocess.PIPE, text=True, timeout=60, check=False, **options)


VERSIONS = (
    f"gpukmeans {gpukmeans.__version__} (deflate {metadata.version('deflate')}, zlib {zlib.ZLIB_RUNTIME_VERSION}, "
    f"zopfli {metadata.version('zopfli')})\n"
)


def test_the_versions_are_those_of_the_packages_that_bytes_depend_on(run):
    for option in ("--version", "-V"):
        assert run(option) == (0, VERSIONS, "")


@pytest.mark.parametrize("command", [[], ["compress"], ["cluster"]], ids=" ".join)
def test_the_option_h_prints_the_help(run, command):
    assert run(*command, "-h") == run(*command, "--help")
    assert "Usage" in run(*command, "-h")[1]


def test_the_version_is_printed_without_an_installation(run, monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert run("--version") == (0, VERSIONS, "")


@pytest.mark.parametrize("command", [[COMMAND], [sys.executable, "-m", "gpukmeans_cli.main"]], ids=["script", "module"])
def test_the_command_is_installed(command):
    answer = start(*command, "--version", stdout=subprocess.PIPE)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, VERSIONS, "")


def test_help_version_and_wrong_arguments_are_answered_without_torch(tmp_path):
    # Only a new interpreter has not imported torch yet.
    code = """
import sys
from gpukmeans_cli.main import main
from gpukmeans_cli.main import run as run_process
for args in (["--version"], ["--help"], ["compress", "--help"], ["demo", "--help"], [], ["compress"],
             ["compress", "a.png", "-k", "0"], ["compress", "a.png", "-o", "b.jpg"], ["compress", "a.png", "a.jpg"],
             ["compress", "a.png", "--tol", "nan"], ["compress", "a.png", "--device", "tpu"],
             ["compress", "a.png", "--max-bytes", "few"], ["palette"], ["compare"]):
    try:
        main(args)
    except SystemExit as exit:
        slow = sorted({"torch", "numpy", "PIL"} & sys.modules.keys())
        print(exit.code, *slow, file=sys.stderr)
"""
    answer = start(sys.executable, "-c", code, stdout=subprocess.DEVNULL, cwd=tmp_path)
    assert [line for line in answer.stderr.splitlines() if re.match(r"\d", line)] == ["0"] * 4 + ["2"] * 10
    assert answer.returncode == 0


def test_help_loads_neither_torch_nor_pydantic(tmp_path):
    # The help of a command does not import them either. Only a new interpreter has not imported them yet.
    code = """
import sys
from gpukmeans_cli.main import main
for command in ([], *([name] for name in sys.argv[1:])):
    try:
        main([*command, "--help"])
    except SystemExit as exit:
        print("code", exit.code, *sorted({"torch", "pydantic"} & sys.modules.keys()), file=sys.stderr)
"""
    names = ["compress", "demo", "palette", "compare", "report", "cluster"]
    answer = start(sys.executable, "-c", code, *names, stdout=subprocess.DEVNULL, cwd=tmp_path)
    assert answer.stderr.splitlines() == ["code 0"] * 7


def test_help_names_all_commands(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert re.search(r"^\W*compress\s+\w", out, re.MULTILINE)
    assert re.search(r"^\W*demo\s+\w", out, re.MULTILINE)
    assert re.search(r"^\W*palette\s+\w", out, re.MULTILINE)
    assert re.search(r"^\W*compare\s+\w", out, re.MULTILINE)
    assert re.search(r"^\W*report\s+\w", out, re.MULTILINE)
    assert re.search(r"^\W*cluster\s+\w", out, re.MULTILINE)


def test_help_shows_the_usage_and_omits_the_options_of_typer(run):
    out = run("--help")[1]
    assert "Usage: gpukmeans [OPTIONS] COMMAND" in out
    assert set(re.findall(r"^│ (--[a-z-]+)", out, re.MULTILINE)) == {"--version", "--help"}


@pytest.fixture
def bash(tmp_path):
    """Runs a bash script in which `gpukmeans` is the code under test, and gives the lines it prints."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    roots = [str(Path(package.__file__).parents[1]) for package in (gpukmeans, gpukmeans_cli)]
    program = tmp_path / "gpukmeans"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gpukmeans_cli "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])

    def bash(script):
        env = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(roots), "SHELL": "bash"}
        answer = start("bash", "--norc", "-c", script, stdout=subprocess.PIPE, cwd=tmp_path, env=env)
        assert (answer.returncode, answer.stderr) == (0, "")
        return answer.stdout.splitlines()

    return bash


def test_a_script_for_bash_completes_commands_options_and_their_values(bash):
    script = """
completion=$(gpukmeans --show-completion bash)
eval "$completion"
complete -p gpukmeans
complete_words() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _gpukmeans_completion gpukmeans
    echo "${COMPREPLY[@]}"
}
complete_words gpukmeans co
complete_words gpukmeans compress --dither-
complete_words gpukmeans compress --space o
complete_words gpukmeans compress ph
"""
    assert bash(script) == [
        "complete -o default -F _gpukmeans_completion gpukmeans",
        "compress compare",
        "--dither-strength",
        "oklab",
        "",  # bash completes file names
    ]


def test_no_arguments_print_the_help(run):
    code, out, err = run()
    assert code == 2
    assert "compress" in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("panel", "options"),
    [
        (
            "Colors",
            {
                *("--colors", "--min-psnr", "--quality", "--max-bytes", "--fixed", "--palette", "--shared-palette"),
                *("--space", "--dither", "--dither-strength", "--lossy"),
            },
        ),
        (
            "Output",
            {
                *("--output", "--output-folder", "--force", "--in-place", "--allow-larger", "--effort", "--strip"),
                "--max-pixels",
            },
        ),
        ("Files", {"--recursive", "--jobs", "--skip-existing", "--fail-fast", "--dry-run"}),
        (
            "Clustering",
            {"--device", "--best", "--keep-vivid", "--init", "--n-init", "--refine", "--max-iter", "--tol", "--seed"},
        ),
        ("Messages", {"--json", "--quiet", "--verbose"}),
    ],
)
def test_help_groups_the_options_in_panels(run, panel, options):
    _, out, _ = run("compress", "--help")
    inside = re.search(rf"^\W*{panel} ─.*?^╰", out, re.MULTILINE | re.DOTALL)
    assert inside
    assert set(re.findall(r"^│ (--[a-z-]+)", inside.group(), re.MULTILINE)) == options


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        pytest.param(["compres"], "No such command 'compres'. Did you mean 'compress'", id="command"),
        pytest.param(["photo.jpg"], "run gpukmeans compress photo.jpg", id="photo without a command"),
        pytest.param(["."], "run gpukmeans compress .", id="folder without a command"),
        pytest.param(
            ["compress", "a.png", "--quality", "101"], "must be a number from 0 to 100, got '101'", id="quality"
        ),
        pytest.param(["compress", "a.png", "--space", "lab"], ": 'lab' is not one of 'srgb'", id="choice"),
        pytest.param(["compress", "a.png", "-k", "x"], "must be an integer from 1 to 256, got 'x'", id="no integer"),
        pytest.param(["compress", "a.png", "-k", "1.5"], "an integer from 1 to 256, got '1.5'", id="fraction"),
        pytest.param(["compress", "a.png", "-k", "0"], "from 1 to 256, got '0'", id="too few colors"),
        pytest.param(["compress", "a.png", "--jobs", "0"], "an integer of at least 1, got '0'", id="no jobs"),
        pytest.param(["compress", "a.png", "--tol", "-1"], "a number of at least 0, got '-1'", id="tolerance"),
        pytest.param(["compress", "a.png", "--min-psnr", "x"], "must be a number, got 'x'", id="no number"),
        pytest.param(["compress", "a.png", "--dither-strength", "2"], "from 0 to 1, got '2'", id="strength"),
        pytest.param(["--fast"], "No such option: --fast", id="option"),
        pytest.param(["compress", "a.png", "--colours", "3"], "--colors", id="option of compress"),
        pytest.param(["demo", "--device", "cpu"], "No such option: --device", id="option of demo"),
        pytest.param(["demo", "a.png", "b.png"], "b.png", id="two photos for the demo"),
        pytest.param(["demo", "-k", "257"], "257", id="colors of the demo"),
        pytest.param(["compress", "a.png", "-o"], "'-o' requires an argument", id="option without its value"),
    ],
)
def test_a_wrong_command_or_option_gives_one_line_and_exit_code_2(run, args, complaint):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"gpukmeans: [^\n]+\n", err)
    assert complaint in err


def test_a_name_in_an_error_keeps_its_spaces(run):
    _, _, err = run("compress", "a.png", "-o", "two  spaces.jpg")
    assert "two  spaces.jpg" in err


def test_an_unexpected_exception_of_the_run_is_not_caught_and_one_of_a_file_is_a_line(run, monkeypatch, tmp_path):
    def fail(*args, **options):
        raise ZeroDivisionError

    (tmp_path / "a.png").touch()
    with monkeypatch.context() as patch:
        patch.setattr("gpukmeans_cli.compression.batch.compress_image", fail)
        code, _, err = run("compress", str(tmp_path / "a.png"))
        assert (code, err.count("\n")) == (1, 1)
        assert "a.png: failed by a bug of gpukmeans (ZeroDivisionError);" in err
    monkeypatch.setattr("gpukmeans_cli.compression.batch.compress_all", fail)
    with pytest.raises(ZeroDivisionError):
        main(["compress", str(tmp_path / "a.png")])


def test_ranks_that_cannot_connect_give_one_line_and_exit_code_1(run, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    code, out, err = run("compress", "a.png")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"gpukmeans: the ranks cannot connect [^\n]+; start them by torchrun\n", err)


@pytest.mark.parametrize("args", [["--version"], ["compress", "--help"]], ids=" ".join)
def test_a_closed_pipe_behind_stdout_gives_no_traceback(args):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        answer = start(COMMAND, *args, stdout=pipe)
    assert (answer.returncode, answer.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_stdout_gives_one_line():
    with open("/dev/full", "wb") as full:
        answer = start(COMMAND, "--version", stdout=full)
    assert answer.returncode == 1
    assert re.fullmatch(r"gpukmeans: [^\n]+ is on the full disk, redirect it\n", answer.stderr)


def test_another_error_of_stdout_is_not_that_of_a_full_disk(run, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("importlib.metadata.version", fail)
    assert run("--version") == (1, "", "gpukmeans: cannot continue (Input/output error)\n")


@pytest.mark.parametrize(
    ("name", "code", "at_exit"), [("few.png", 0, ""), ("none.png", 1, ""), ("few.jpg", 2, "atexit\n")]
)
def test_a_process_flushes_its_output_and_skips_atexit_after_work(tmp_path, name, code, at_exit):
    Image.new("RGB", (2, 2)).save(tmp_path / "few.png")
    program = (
        "import atexit, sys; from gpukmeans_cli.main import run; "
        "atexit.register(print, 'atexit', flush=True); run(['compress', *sys.argv[1:]])"
    )
    args = [tmp_path / name, "-o", tmp_path / f"out{Path(name).suffix}"]
    answer = start(sys.executable, "-c", program, *args, stdout=subprocess.PIPE)
    assert answer.returncode == code
    assert answer.stdout == (f"{answer.stdout.splitlines()[0]}\n" if code == 0 else at_exit)
    assert len(answer.stderr.splitlines()) == (0 if code == 0 else 1)


def test_a_process_that_cannot_flush_its_output_exits_normally(monkeypatch):
    def leave(code):
        raise BrokenPipeError

    monkeypatch.setattr("gpukmeans_cli.main.exit_now", leave)
    with pytest.raises(SystemExit) as caught:
        run_process(["--version"])
    assert caught.value.code == 0
