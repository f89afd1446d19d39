"""Print CPU seconds and peak memory of whole commands on large inputs, as a Markdown table.

PYTHONPATH=src python scripts/load.py [--only "list, 500 studies"] [--keep FOLDER] [--beside OTHER/src]

CPU seconds include all processes that the command waited for. The peak is the resident memory of the largest process.
"Before" and "aim" are from the issue that asked for this, seen on another machine. So `--beside` runs each case with
the sources of another version, too, and prints the ratio. Takes some minutes and 1 GB of disk.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from load_studies import write_study

Arguments = list[str]


class Cost(NamedTuple):
    """Cost of one command."""

    cpu_seconds: float
    peak_gigabytes: float
    status: int


class Case(NamedTuple):
    """One large input."""

    name: str
    before: str
    aim: str
    build: Callable[[Path], Arguments]  # makes the input in a folder and returns the command's arguments


def many_rows(root: Path) -> Arguments:
    """200,000 rows of 195 bytes with unique inputs."""
    filler = "the quick brown fox jumps over the lazy dog and then it rests " * 2
    with (root / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(200_000):
            row = {"prompt": f"question {number}: {filler[:100]}", "completion": f"answer {number * 7} {filler[:30]}"}
            file.write(json.dumps(row) + "\n")
    return ["check", "--model", "tiny", "--data", str(root / "rows.jsonl"), "--out", str(root / "rows-study")]


def many_arms(root: Path) -> Arguments:
    """100 adapters of different ranks and modules."""
    arms = [f"a{rank}-{where}=lora,rank={rank},targets={where}" for rank in range(1, 26) for where in TARGETS]
    options = [word for arm in ["full=full", *arms[1:]] for word in ("--arm", arm)]
    return ["check", "--model", "tiny", "--data", str(_few_rows(root)), "--out", str(root / "arms-study"), *options]


TARGETS = ("qkv", "attention", "mlp", "all-linear")


def _few_rows(root: Path, *more: dict[str, str]) -> Path:
    rows = [{"prompt": f"question {number}", "completion": f"answer {number}"} for number in range(60)]
    path = root / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (*more, *rows)), encoding="utf-8")
    return path


def long_words(root: Path) -> Arguments:
    """One example of 16 MB that consists of words."""
    data = _few_rows(root, {"prompt": "word " * 3_199_000, "completion": "yes"})
    return ["check", "--model", "tiny", "--data", str(data), "--out", str(root / "long-study")]


def long_word(root: Path) -> Arguments:
    """One example of 16 MB that is one word."""
    data = _few_rows(root, {"prompt": "x" * 15_990_000, "completion": "yes"})
    return ["check", "--model", "tiny", "--data", str(data), "--out", str(root / "word-study")]


def many_folders(root: Path) -> Arguments:
    """20 finished studies of two arms in one report."""
    write_study(root / "study-0", 150, [3])
    for number in range(1, 20):
        shutil.copytree(root / "study-0", root / f"study-{number}")
    return ["report", *(str(root / f"study-{number}") for number in range(20))]


def many_runs(root: Path) -> Arguments:
    """A study of 986 runs."""
    print(f"({write_study(root / 'runs', 150, [323])} runs)", file=sys.stderr)
    return ["report", str(root / "runs")]


def many_test_rows(root: Path) -> Arguments:
    """Three arms and ten seeds, scored on 200,000 rows."""
    write_study(root / "test-rows", 200_000, [10])
    return ["report", str(root / "test-rows")]


def many_classes(root: Path) -> Arguments:
    """Two arms and three seeds that classify 10,000 rows into 1,000 classes."""
    arms = {"full": {"method": "full"}, "lora-r8": {"method": "lora", "rank": 8}}
    write_study(root / "classes", 10_000, [3], 1_000, arms)
    return ["report", str(root / "classes")]


def many_studies(root: Path) -> Arguments:
    """500 studies, each with a report."""
    write_study(root / "list" / "study-0", 150, [3])
    measured(["report", str(root / "list" / "study-0")])
    shutil.rmtree(root / "list" / "study-0" / "runs")
    for number in range(1, 500):
        shutil.copytree(root / "list" / "study-0", root / "list" / f"study-{number}")
    return ["list", str(root / "list")]


CASES = (
    Case("check, 200,000 rows (39 MB)", "113 s, 2.55 GB", "20 s, 0.8 GB", many_rows),
    Case("check, 100 arms", "over 200 s wall", "20 s", many_arms),
    Case("report over 20 folders", "over 45 s", "5 s", many_folders),
    Case("report, 986 runs", "23 s", "8 s", many_runs),
    Case("report, 200,000 test rows x 10 seeds x 3 arms", "58 s, 1.64 GB", "20 s, 1 GB", many_test_rows),
    Case("report, 1,000 classes x 10,000 rows", "32 s, 3.45 GB", "12 s, 1 GB", many_classes),
    Case("one example of 16 MB, words", "28 s, 4.3 GB", "2 s, 0.5 GB", long_words),
    Case("one example of 16 MB, one word", "over 46 s, 7.1 GB", "2 s, 0.5 GB", long_word),
    Case("list, 500 studies", "2.5 s", "1 s", many_studies),
)


def measured(arguments: Arguments, sources: str = "") -> Cost:
    """Cost of `tunewise` with these arguments, of the version in a folder. Prints its output if it fails."""
    environment = {**os.environ, "COLUMNS": "80", **({"PYTHONPATH": sources} if sources else {})}
    with tempfile.TemporaryFile() as said:
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "tunewise", *arguments],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)],
        )
        _, status, usage = os.wait4(child, 0)
        if status:
            said.seek(0)
            print(said.read()[-2000:].decode(errors="replace"), file=sys.stderr)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of what ru_maxrss counts
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e9, os.waitstatus_to_exitcode(status))


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", action="append", choices=[case.name for case in CASES], help="measure this case")
    options.add_argument("--keep", type=Path, help="build the inputs in this folder, and leave them there")
    options.add_argument("--beside", type=Path, help="folder `src` of another version, which is measured too")
    asked = options.parse_args()
    beside = ["beside, CPU", "ratio", "aim of the ratio"] if asked.beside else []
    print(_row("what", "before", "aim", "seen", *beside), _row(*["---"] * (4 + len(beside))), sep="\n", flush=True)
    for case in CASES:
        if asked.only and case.name not in asked.only:
            continue
        cost = _measured_in_folder(case, asked.keep)
        cells = [case.name, case.before, case.aim, _shown(cost)]
        if asked.beside:
            other = _measured_in_folder(case, asked.keep, str(asked.beside.resolve()))
            cells += [_shown(other), f"{other.cpu_seconds / cost.cpu_seconds:.1f}"]
            cells.append(f"{_seconds(case.before) / _seconds(case.aim):.1f}")
        print(_row(*cells), flush=True)


def _measured_in_folder(case: Case, keep: Path | None, sources: str = "") -> Cost:
    folder = Path(tempfile.mkdtemp(dir=keep))
    cost = measured(case.build(folder), sources)
    if keep:
        print(f"({case.name}: {folder})", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return cost


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(cost: Cost) -> str:
    failed = f", exit status {cost.status}" if cost.status else ""
    return f"{cost.cpu_seconds:.1f} s, {cost.peak_gigabytes:.2f} GB{failed}"


def _seconds(words: str) -> float:
    return float(re.search(r"[\d.]+", words)[0])


if __name__ == "__main__":
    main()
