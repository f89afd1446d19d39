"""What loading libraries say: their errors become one ModelError with the message, their reports are not shown."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

from tunewise.errors import TunewiseError
from tunewise.lab.train.memory import is_out_of_memory

MAX_LINES = 8  # of a library's message; a mismatch of all tensors has thousands
MAX_CHARACTERS = 1_200
COLORS = re.compile("\x1b\\[[0-9;]*m")
# The tokenizers library is written in Rust. Its panics arrive as a BaseException of this name.
PANIC = "PanicException"


def all_lines(error: BaseException) -> str:
    """The library's message in one paragraph: every non-empty line, shortened if long."""
    text = COLORS.sub("", str(error))
    lines = [line for line in (" ".join(line.split()) for line in text.splitlines()) if line.strip("-=~* ")]
    if not lines:
        return f"{type(error).__name__}."
    left_out = f" ({len(lines) - MAX_LINES} more lines)" if len(lines) > MAX_LINES else ""
    said = " ".join(lines[:MAX_LINES])
    said = said if len(said) <= MAX_CHARACTERS else f"{said[:MAX_CHARACTERS]}..."
    if isinstance(error, KeyError | MemoryError | RecursionError):  # their text alone does not say what happened
        said = f"{type(error).__name__}: {said}"
    return f"{said if said.endswith(('.', '!', '?', ':', '...')) else said + '.'}{left_out}"


@contextmanager
def reraised(kind: type[TunewiseError], what: str, advise: Callable[[str], str] = str) -> Iterator[None]:
    """Turn whatever a library raises into `kind`: `what`, then `advise` applied to the library's message.

    Errors of tunewise pass unchanged, and so does a lack of memory, which is not a fault of the loaded file.
    """
    try:
        yield
    except TunewiseError:
        raise
    except Exception as error:  # the boundary to libraries, which raise any kind of error for bad files
        if is_out_of_memory(error):
            raise
        raise kind(f"{what}: {advise(all_lines(error))}") from error
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        raise kind(f"{what}: {advise(all_lines(error))}") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress progress bars and load reports; the relevant facts are in Base and in the record."""
    before = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
