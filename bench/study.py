"""What a study costs beside training and scoring: the wall time of the quickstart over the seconds of its runs.

python bench/study.py [--out FILE]

Process starts, preparation, loading, writing and the report are the rest. Prints one line, and appends it to --out.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from machine import environment, publish

from tunewise.ledger import Ledger


def main() -> None:
    """Run the quickstart in an empty folder and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        subprocess.run(["tunewise", "quickstart"], cwd=folder, check=True)
        wall = time.perf_counter() - begin
        records = Ledger.open(Path(folder) / "runs" / "quickstart").records()
    usages = [record.usage for record in records if record.usage]
    spent = sum((usage.train_seconds or 0) + usage.evaluate_seconds for usage in usages)
    line = (
        f"`tunewise quickstart`: {wall:.0f} s of wall time, of which {len(usages)} runs trained and scored for "
        f"{spent:.0f} s: ratio {wall / spent:.2f}. {environment()}\n"
    )
    print(line)
    publish(line, given.out)


if __name__ == "__main__":
    main()
