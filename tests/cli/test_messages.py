import pytest

from gpukmeans_cli.messages import one_line, say, warn


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a photo -> ½ é 写真.png", "a photo -> ½ é 写真.png"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("undecodable \udcff", r"undecodable \udcff"),
    ],
)
def test_what_would_break_a_line_or_a_terminal_is_escaped(text, line):
    assert one_line(text) == line


def test_lines_go_to_stdout_and_warnings_to_stderr(capsys):
    say("done\n")
    warn("not\ndone")
    assert capsys.readouterr() == ("done\\n\n", "gpukmeans: not\\ndone\n")
