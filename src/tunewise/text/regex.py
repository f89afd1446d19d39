"""Regular expressions that a user wrote."""

import re


def compiled(pattern: str) -> re.Pattern[str]:
    """The compiled pattern. Raises ValueError with the reason, in words that do not depend on who asks."""
    try:
        return re.compile(pattern)
    except RecursionError as error:  # its own text depends on how deep the caller is
        raise ValueError("it is nested too deeply") from error
    except (re.error, OverflowError) as error:
        raise ValueError(str(error)) from error
