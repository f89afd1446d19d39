"""What the report says of a finished study without the right to read one file or folder of it, each in turn, as JSON:
null where it says the same as with all rights.

    python tests/chaos/refused.py FOLDER

For a process that has no more rights than any user's (`test_refused.py` starts it so).
"""

import json
import sys
from pathlib import Path

from tunewise.desk.report.compose.build import build_report
from tunewise.errors import UserError
from tunewise.storage.ledger import Ledger


def said(folder: Path) -> str:
    """The report, or the message in its place."""
    try:
        return build_report(Ledger.open(folder)).model_dump_json()
    except UserError as error:
        return str(error)


def main() -> None:
    """Print what is said for each path."""
    folder = Path(sys.argv[1])
    right, found = said(folder), {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        mode = path.stat().st_mode
        path.chmod(0)
        try:
            instead = said(folder)
        finally:
            path.chmod(mode)
        found[str(path)] = None if instead == right else instead
    print(json.dumps(found))


if __name__ == "__main__":
    main()
