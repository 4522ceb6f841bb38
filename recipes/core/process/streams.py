"""Standard streams that can be closed, gone or in a poor locale without breaking what is being done.

`steelyard list | head -1` closes the pipe, a terminal that is shut takes its streams along, `>&-` starts a process
without stdout, and in the C locale Python knows ASCII only. What a run computes is worth more than what it prints.
"""

import errno
import io
import logging
import os
import sys
from typing import Any

from recipes.core.messages import note

CHATTY = ("bitsandbytes",)  # transformers imports it wherever it is installed
NAMES = ("stdin", "stdout", "stderr")
GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)  # nobody reads any more


def start_in_utf8() -> None:
    """Start this process again in Python's UTF-8 mode if its locale knows ASCII only; else nothing.

    File names and text of users are UTF-8 whatever the locale says. Processes started from here inherit the mode.
    """
    if os.name != "posix" or sys.flags.utf8_mode or sys.getfilesystemencoding() != "ascii":
        return
    if "utf8=0" in sys.orig_argv:  # asked for on the line: it would be so again, without end
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def guard_streams() -> None:
    """Make sure that there are three standard streams, and that printing to one that is gone does nothing.

    Libraries that print whenever they are imported are quiet.
    """
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for number, name in enumerate(NAMES):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    for number, name in enumerate(NAMES[1:], start=1):
        setattr(sys, name, _guard(getattr(sys, name), number))


def silence(*numbers: int) -> None:
    """Let this process print nothing more to some of its standard streams, 1 and 2: another one says the same."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in numbers:
        stream = getattr(sys, NAMES[number])
        stream.flush()
        os.dup2(nowhere, number)
        setattr(sys, NAMES[number], open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good
    os.close(nowhere)


def _guard(stream: Any, number: int) -> Any:
    """The stream on top of one that never fails, if it writes to the file descriptor itself."""
    try:
        plain = isinstance(stream, io.TextIOWrapper) and stream.fileno() == number
    except (OSError, ValueError):
        plain = False
    if not plain or isinstance(getattr(stream.buffer, "raw", None), _Forgiving):
        return stream
    stream.flush()
    return forgiving_stream(number, stream.encoding)


def forgiving_stream(number: int, encoding: str) -> io.TextIOWrapper:
    """A text stream on a file descriptor, which stays open; printing to it does nothing once nobody can read it."""
    buffer = io.BufferedWriter(_Forgiving(number, "w", closefd=False))
    return io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", line_buffering=True)


class _Forgiving(io.FileIO):
    """Writes to a file descriptor; once that fails, to nowhere."""

    def write(self, data: Any) -> int:
        """Write bytes; all of them count as written when nobody can read them."""
        try:
            return super().write(data) or 0
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if error.errno not in GONE and self.fileno() != 2:
                note(f"warning: stdout cannot be written ({error.strerror})")
            return len(data)
