"""Errors whose message is meant for the user: what is wrong, what was given, what is allowed, what to do next.

TunewiseError
└── UserError            exit code 2: the user can mend it
    ├── SpecError        the study file, an option, an arm
    ├── DataError        the training, validation or test data
    ├── ModelError       the base model, its tokenizer, an adapter
    ├── StudyError       the study folder on disk
    └── OutputError      the terminal, pipe or file that the program prints to
"""


class TunewiseError(Exception):
    """Anything tunewise raises on purpose."""


class UserError(TunewiseError):
    """The user's mistake; the message says how to mend it."""


class SpecError(UserError):
    """A study, an arm or an option that cannot be run as written."""


class DataError(UserError):
    """Data that cannot be read, or that would train on something else than it seems."""


class ModelError(UserError):
    """A model, tokenizer or adapter that cannot be used as asked."""


class StudyError(UserError):
    """A study folder that cannot be written, or that does not hold what it should."""


class OutputError(UserError):
    """Output that cannot be printed, for example because the disk behind it is full."""


USER_ERRORS = {kind.__name__: kind for kind in (UserError, SpecError, DataError, ModelError, StudyError)}
