"""Errors whose message is meant for the user: what is wrong, what was given, what is allowed, what to do next.

TunewiseError
└── UserError            exit status 2: the user can fix it
    ├── SpecError        the study file, an option, an arm
    ├── DataError        the training, validation or test data
    ├── ModelError       the base model, its tokenizer, an adapter
    ├── StudyError       the study folder on disk
    ├── OutputError      the terminal, pipe or file that the program prints to
    └── MachineError     the system refused a process, a thread, a file or memory, or ended a process of ours
"""

import errno


class TunewiseError(Exception):
    """Any error that tunewise raises on purpose."""


class UserError(TunewiseError):
    """A mistake of the user; the message says how to fix it."""


class SpecError(UserError):
    """A study, an arm or an option that cannot be run as written."""


class DataError(UserError):
    """Data that cannot be read, or that would train on something other than it seems."""


class ModelError(UserError):
    """A model, tokenizer or adapter that cannot be used as asked."""


class StudyError(UserError):
    """A study folder that cannot be written, or that lacks what it should contain."""


class OutputError(UserError):
    """Output that cannot be printed, for example because the disk behind it is full."""


class MachineError(UserError):
    """A refusal by the system, or a process of ours that the system ended."""


def clause(error: BaseException | str) -> str:
    """The text of an error for the middle of a sentence: without a period at its end. Its name, if it has no text."""
    return str(error).strip().rstrip(".") or type(error).__name__


USER_ERRORS = {kind.__name__: kind for kind in (UserError, SpecError, DataError, ModelError, StudyError, MachineError)}

AGAIN = "Finished runs are kept. Run the same command again; it resumes."
REFUSALS = {  # error number -> what to do
    errno.EMFILE: "Allow this process more open files (`ulimit -n 1024`).",
    errno.ENFILE: "Close other programs: the whole system has too many open files.",
    errno.EAGAIN: "Allow more processes and threads (`ulimit -u`), or close other programs.",
    errno.ENOMEM: "Close other programs, or allow this one more memory (`ulimit -v`).",
    errno.ENOSPC: "Free space on that disk.",
    errno.EDQUOT: "Free part of your quota on that disk.",
    errno.EFBIG: "Allow larger files (`ulimit -f unlimited`).",
    errno.EROFS: "Choose a folder on a writable disk.",
    errno.EIO: "Check the disk.",
}
SAID = {  # parts of messages that come without an error number -> that number
    "Too many open files": errno.EMFILE,
    "can't start new thread": errno.EAGAIN,
    "Resource temporarily unavailable": errno.EAGAIN,
    "cannot allocate memory": errno.ENOMEM,
    "failed to map segment": errno.ENOMEM,
}


def refusal(error: BaseException) -> str | None:
    """What the system refused and what to do; None for any other error."""
    if isinstance(error, BrokenPipeError):
        return None
    text = str(error) or type(error).__name__
    if "usable temporary directory" in text:
        return "there is no folder for temporary files. Set TMPDIR to a writable one with free space."
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    if number not in REFUSALS:
        number = next((of for part, of in SAID.items() if part.lower() in text.lower()), None)
    return None if number is None else f"the system refused: {text.splitlines()[0]}. {REFUSALS[number]} {AGAIN}"
