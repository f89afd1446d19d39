"""Standard output and standard error: one way out for all text, whatever the text holds and the terminal can show."""

import codecs
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from tunewise.errors import OutputError
from tunewise.text.safe import CONTROLS, printable

# What our own sentences and tables use, in the letters that every terminal has.
SIGNS = (
    "− -|– -|— -|· .|… ...|× x|± +/-|° deg|→ ->|» >>|« <<|≤ <=|≥ >=|✓ +|↑ ^|↓ v|§ section|"
    "░ .|▒ o|▓ O|█ #|‘ '|’ '|“ \"|” \"|\xa0  |\u202f  "
)
PLAIN_SIGNS = dict(pair.split(" ", 1) for pair in SIGNS.split("|"))
PLAIN = "tunewise.plain"  # the name of the error handler that writes them
STANDARD_ERROR = 2  # descriptor
BROKEN_PIPE = 1  # exit status where the reader of a pipe went away


def say(text: str, *, error: bool = False) -> None:
    """Print a line or several, control characters written out. Raises OutputError where they cannot be written."""
    if not error:
        print(printable(text))
        return
    if getattr(sys, "stderr", None) is None:  # closed: print would take standard output instead
        return
    with suppress(OSError):  # full: the exit status tells
        print(printable(text), file=sys.stderr, flush=True)


def say_json(text: str) -> None:
    """Print JSON so that a terminal obeys nothing in it, and every program reads the same values from it."""
    say(escaped(text, getattr(sys.stdout, "encoding", None) or "utf-8"))


def escaped(text: str, encoding: str) -> str:
    r"""JSON text with \uXXXX in the place of control characters and of what `encoding` may lack."""
    text = CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if encoding.lower().startswith("utf"):
        return text
    return "".join(letter if letter.isascii() else json.dumps(letter)[1:-1] for letter in text)


def plain_signs(error: UnicodeError) -> tuple[str, int]:
    """What an encoder writes instead of characters that the encoding does not have; '?' where nothing is alike."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN_SIGNS.get(letter, "?") for letter in lacking), error.end


class Stream:
    """A standard stream that says in one message that it cannot be written."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Write text as it is."""
        with self._said():
            return self._stream.write(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._said():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # click would write UTF-8 into it, past this class, where the terminal is ASCII
            raise AttributeError(name)
        return getattr(self._stream, name)

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise  # the reader has what it wanted: no fault
        except OSError as error:
            raise OutputError(
                f"cannot write to {self._name}: {error.strerror}. What the command stored is kept; free some space, or "
                "send its output elsewhere, and give the same command again."
            ) from error


class ErrorStream(Stream):
    """Standard error, where other libraries write as well: no control character reaches the terminal by it."""

    def write(self, text: str) -> int:
        """Write text with its control characters written out."""
        super().write(printable(text))
        return len(text)


@contextmanager
def standard_streams() -> Iterator[None]:
    """In the block, text is written safely to the terminal; at its end, or at an error, all of it is there.

    Raises OutputError where it cannot be written. Ends the program quietly where nobody reads a pipe any more.
    """
    before = sys.stdout, sys.stderr
    codecs.register_error(PLAIN, plain_signs)
    out, error = (_opened(stream) for stream in before)
    sys.stdout = cast("TextIO", Stream(out, "standard output"))
    sys.stderr = cast("TextIO", ErrorStream(error, "standard error"))
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(out)
        sys.exit(BROKEN_PIPE)
    except OutputError:
        _discard(out)
        raise
    finally:
        sys.stdout, sys.stderr = before


def _opened(stream: TextIO | None) -> TextIO:
    """The stream, which writes plain signs for what its encoding lacks; one that was closed writes to nowhere."""
    if stream is None:  # a file of the study could otherwise get its descriptor, and the program's output
        while (handle := os.open(os.devnull, os.O_RDWR)) < STANDARD_ERROR:
            os.set_inheritable(handle, True)
        return os.fdopen(handle, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=PLAIN)
    return stream


def _discard(stream: TextIO) -> None:
    """Send what is still in the buffer nowhere: Python would try once more at its end, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
