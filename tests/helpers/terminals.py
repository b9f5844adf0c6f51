"""Programs on pseudo terminals."""

import os
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

needs_pseudo_terminals = pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo terminals here")


class Terminal:
    """Both ends of a pseudo terminal of 24 lines. After `close`, `written` has the text written to it."""

    def __init__(self, columns):
        import fcntl
        import termios

        self.columns = columns
        self.reader, self.writer = os.openpty()
        fcntl.ioctl(self.writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._written = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        try:
            while data := os.read(self.reader, 1 << 16):
                self._written += data
        except OSError:  # the other end is closed
            pass

    def close(self):
        os.close(self.writer)
        self._thread.join()
        os.close(self.reader)
        self.written = self._written.decode()

    def screen(self):
        """The non-empty lines on the screen at the end. Long lines are not wrapped."""
        rows, row, column = [""], 0, 0
        for escape, char in re.findall(r"\x1b\[([?\d;]*[A-Za-z])|([^\x1b])", self.written):
            if escape == "2K":
                rows[row] = ""
            elif escape.endswith("A"):
                row -= int(escape[:-1])
                assert row >= 0
            elif escape:
                assert escape[-1] in "mhl", escape
            elif char == "\r":
                column = 0
            elif char == "\n":
                row += 1
                rows += [""] * (row == len(rows))
            else:
                rows[row] = rows[row][:column].ljust(column) + char + rows[row][column + 1 :]
                column += 1
        return [line for line in rows if line]


def run_python(code, out="terminal", err="terminal", columns=100, **environ):
    """Exit code, stdout and stderr of Python code.

    A stream is bytes if `out` or `err` is "pipe", else a `Terminal`. Equal names are one terminal.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    environ = {**inherited, "PYTHONPATH": path, "TERM": "xterm-256color", "PYTHONUTF8": "1", **environ}
    terminals = {name: Terminal(columns) for name in {out, err} - {"pipe"}}
    ends = [terminals[name].writer if name in terminals else subprocess.PIPE for name in (out, err)]
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=ends[0], stderr=ends[1], env=environ
    )
    piped = process.communicate(timeout=120)
    for terminal in terminals.values():
        terminal.close()
    return process.returncode, terminals.get(out, piped[0]), terminals.get(err, piped[1])
