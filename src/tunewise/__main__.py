"""Entry point of `python -m tunewise` and `tunewise`: make the process safe in any folder, then run the command."""

import os
import sys

from tunewise.inputs.import_path import leave_out_current_folder

INTERRUPTED = 130  # exit status after a Ctrl-C


def main() -> None:
    """Run the command line. A Ctrl-C before it is loaded also ends quietly."""
    try:
        leave_out_current_folder()
        _open_standard_descriptors()
        _silence_libraries()
        from tunewise.cli.app import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        from tunewise.errors import refusal  # imports nothing that may fail to load

        if message := refusal(error):
            shown = "".join(sign if sign.isprintable() else "?" for sign in message)
            os.write(2, f"error: {shown}\n".encode("ascii", "backslashreplace"))
            sys.exit(2)
        raise


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
