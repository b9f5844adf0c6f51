import pytest

from gpukmeans_cli.terminal.messages import one_line, print_line, warn, warn_ignored_frames


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a photo -> ½ é 写真.png", "a photo -> ½ é 写真.png"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("undecodable \udcff", r"undecodable \udcff"),
    ],
)
def test_control_characters_are_escaped(text, line):
    assert one_line(text) == line


def test_lines_go_to_stdout_and_warnings_to_stderr(capsys):
    print_line("done\n")
    warn("not\ndone")
    assert capsys.readouterr() == ("done\\n\n", "gpukmeans: not\\ndone\n")


def test_ignored_frames_are_a_warning(capsys):
    warn_ignored_frames("a.gif", 1)
    assert capsys.readouterr().err == ""
    warn_ignored_frames("a.gif", 4)
    assert capsys.readouterr().err == "gpukmeans: a.gif: took the first of 4 frames\n"
