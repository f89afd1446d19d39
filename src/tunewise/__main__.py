"""Entry point of `python -m tunewise` and `tunewise`: make the process safe in any folder, then run the command."""

import os
import sys
from collections.abc import Callable

from tunewise.inputs.import_path import leave_out_current_folder

INTERRUPTED = 130  # exit status after a Ctrl-C
INTERRUPTION = b"interrupted\n"


def main() -> None:
    """Run the command line. A Ctrl-C before it is loaded also ends quietly."""
    try:
        leave_out_current_folder()
        _open_standard_descriptors()
        restore = _end_at_interrupt()
        _silence_libraries()
        from tunewise.cli.app import main as command

        restore()
        command()
    except KeyboardInterrupt:
        os.write(2, INTERRUPTION)
        sys.exit(INTERRUPTED)
    except Exception as error:
        from tunewise.errors import refusal  # imports nothing that may fail to load

        if message := refusal(error):
            shown = "".join(sign if sign.isprintable() else "?" for sign in message)
            os.write(2, f"error: {shown}\n".encode("ascii", "backslashreplace"))
            sys.exit(2)
        raise


def _end_at_interrupt() -> Callable[[], object]:
    """End the process at a Ctrl-C from now on, until the result is called.

    There is nothing to clean up yet, and Python drops a KeyboardInterrupt in some places of an import.
    """
    import signal  # only after the import path is safe

    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler:  # for example ignored, as in a background job
        return lambda: None
    signal.signal(signal.SIGINT, _end_interrupted)
    return lambda: signal.signal(signal.SIGINT, usual)


def _end_interrupted(*_: object) -> None:
    os.write(2, INTERRUPTION)
    os._exit(INTERRUPTED)


def _open_standard_descriptors() -> None:
    """Replace closed descriptors (`tunewise ... 2>&-`), so that a pipe of ours cannot become standard error."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _silence_libraries() -> None:
    """Keep library warnings off the terminal; those of a run are in its log. `python -W` shows them."""
    import logging  # only after the import path is safe
    import warnings

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)


if __name__ == "__main__":
    main()
