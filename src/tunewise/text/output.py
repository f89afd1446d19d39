"""Standard output and standard error: the only way to print, whatever the text contains and the terminal can show."""

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

# ASCII replacements for the characters that our sentences and tables use.
SIGNS = (
    "− -|– -|— -|· .|… ...|× x|± +/-|° deg|→ ->|» >>|« <<|≤ <=|≥ >=|✓ +|↑ ^|↓ v|§ section|"
    "░ .|▒ o|▓ O|█ #|‘ '|’ '|“ \"|” \"|\xa0  |\u202f  "
)
PLAIN_SIGNS = dict(pair.split(" ", 1) for pair in SIGNS.split("|"))
PLAIN = "tunewise.plain"  # name of the error handler that writes them
STANDARD_ERROR = 2  # descriptor
BROKEN_PIPE = 1  # exit status if the reader of a pipe has closed it


def say(text: str, *, error: bool = False) -> None:
    """Print lines with control characters written out. Raises OutputError if they cannot be written."""
    if not error:
        print(printable(text))
        return
    if getattr(sys, "stderr", None) is None:  # closed: print would use standard output instead
        return
    with suppress(OSError):  # disk full: the exit status shows it
        print(printable(text), file=sys.stderr, flush=True)


def say_json(text: str) -> None:
    """Print JSON that a terminal cannot interpret and from which every program reads the same values."""
    say(escaped(text, getattr(sys.stdout, "encoding", None) or "utf-8"))


def escaped(text: str, encoding: str) -> str:
    r"""JSON text with \uXXXX for control characters and for characters that `encoding` may lack."""
    text = CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if encoding.lower().startswith("utf"):
        return text
    return "".join(letter if letter.isascii() else json.dumps(letter)[1:-1] for letter in text)


def plain_signs(error: UnicodeError) -> tuple[str, int]:
    """Replacement for characters that the encoding lacks; '?' if none is similar."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN_SIGNS.get(letter, "?") for letter in lacking), error.end


class Stream:
    """A standard stream whose write errors become one clear message."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Write text unchanged."""
        with self._said():
            return self._stream.write(text)

    def flush(self) -> None:
        """Pass buffered text on."""
        with self._said():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # click would write UTF-8 to it, bypassing this class, even if the terminal is ASCII
            raise AttributeError(name)
        return getattr(self._stream, name)

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise  # the reader has all it wanted: not an error
        except OSError as error:
            raise OutputError(
                f"cannot write to {self._name}: {error.strerror}. Stored results are kept. Free some space or redirect "
                "the output, then run the same command again."
            ) from error


class ErrorStream(Stream):
    """Standard error, which libraries also write to. No control character reaches the terminal through it."""

    def write(self, text: str) -> int:
        """Write text with its control characters written out."""
        super().write(printable(text))
        return len(text)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make printing safe inside the block, and flush everything at its end or at an error.

    Raises OutputError if text cannot be written. Ends the program silently if the reader of a pipe has closed it.
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
    """The stream with ASCII replacements for what its encoding lacks; a closed stream becomes the null device."""
    if stream is None:  # a file of the study could otherwise get its descriptor, and the program's output
        while (handle := os.open(os.devnull, os.O_RDWR)) < STANDARD_ERROR:
            os.set_inheritable(handle, True)
        return os.fdopen(handle, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=PLAIN)
    return stream


def _discard(stream: TextIO) -> None:
    """Discard buffered text: Python would try to write it again at exit, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
