"""Time and memory of `tunewise judge` on large logs of lm-evaluation-harness.

python scripts/large_logs.py [--items 1000000] [--runs 5] [--folder FOLDER]

Writes logs of two arms with as many runs each, unless the folder holds them, judges them in a process of its own, and
prints its seconds and its largest memory.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

NAME = "samples_large_2026-11-30T10-00-00.000001.jsonl"


def write(path: Path, num_items: int, seed: int) -> None:
    """One run; every line has about 600 bytes, as those of a multiple choice task."""
    rng = random.Random(seed)
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        for place in range(num_items):
            score = float(rng.random() < 0.6)
            asked = f"Which of these is number {place}?"
            row = {
                "doc_id": place,
                "doc": {"question": asked, "choices": ["a", "b", "c"], "gold": 0},
                "target": "0",
                "arguments": {"gen_args_0": {"arg_0": asked, "arg_1": " a"}},
                "resps": [[["-15.6015625", "False"]]],
                "filtered_resps": [["-15.6015625", "False"]],
                "filter": "none",
                "metrics": ["acc", "acc_norm"],
                "doc_hash": f"{place:064x}",
                "prompt_hash": f"{place:064x}",
                "target_hash": f"{0:064x}",
                "acc": score,
                "acc_norm": score,
            }
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Write, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/large-logs"))
    given = parser.parse_args()
    for number, arm in enumerate(("full", "lora")):
        for run in range(given.runs):
            path = given.folder / arm / f"seed-{run}" / NAME
            if not path.exists():
                write(path, given.items, 100 * number + run)
    arms = ["--full", str(given.folder / "full"), "--arm", f"lora={given.folder / 'lora'}"]
    begin = time.perf_counter()
    command = [sys.executable, "-m", "tunewise", "judge", *arms, "--out", str(given.folder / "judged")]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, of_cpu = used.ru_maxrss / 2**20, used.ru_utime + used.ru_stime
    size = sum(path.stat().st_size for path in given.folder.rglob("samples_*")) / 2**30
    runs = f"{2 * given.runs} runs of {given.items:,} items, {size:.1f} GiB"
    print(f"\n{runs}: {seconds:.1f} s, {of_cpu:.1f} s of CPU, {peak:.2f} GiB")


if __name__ == "__main__":
    main()
