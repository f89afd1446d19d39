"""Step seconds of two versions of tunewise, side by side in one run: is a step as fast as before?

python bench/versions.py OLD_PYTHON [--rounds 5] [--out FILE]

OLD_PYTHON: the interpreter of an environment in which the other version is installed. Both make the same small study on
the bundled base in turns, the order swapped each round. A ratio above 1 means that this version is slower.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import environment, publish

SKIPPED = 4  # first steps of a run, in which kernels are made
STUDY = """
name: versions
model: tiny
data: {train: builtin:stdlib, split: {valid: 0.1, test: 0.2}, limit: {train: 480, valid: 32, test: 32}, max_length: 256}
arms:
  full: {method: full, rates: [6.0e-4]}
  lora: {method: lora, rank: 8, rates: [3.0e-3]}
train: {epochs: 1, batch_size: 16, evaluations: 1, micro_batch_tokens: 1024}
looks: [1]
forgetting: {tokens: 0}
samples: {count: 0}
machine: {attention: eager, threads: 1}
"""


def measured(python: str, study: Path) -> tuple[float, dict[str, float]]:
    """Wall seconds of the command, and the median step of each arm, all runs together."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        command = [python, "-m", "tunewise", "compare", str(study), "--out", f"{folder}/study"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - begin
        found: dict[str, list[float]] = {}
        for spec in Path(folder).glob("study/runs/*/spec.json"):
            log = spec.with_name("steps.jsonl")
            if log.is_file():
                steps = [json.loads(line)["seconds"] for line in log.read_text(encoding="utf-8").splitlines()]
                found.setdefault(json.loads(spec.read_text(encoding="utf-8"))["arm"], []).extend(steps[SKIPPED:])
    return wall, {arm: statistics.median(steps) for arm, steps in found.items()}


def table(old: list[tuple[float, dict[str, float]]], new: list[tuple[float, dict[str, float]]]) -> str:
    """Markdown: medians over the rounds, and the median, least and greatest ratio of a round."""

    def row(what: str, before: list[float], after: list[float]) -> str:
        ratios = sorted(b / a for a, b in zip(before, after, strict=True))
        spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        return f"| {what} | {1e3 * statistics.median(before):.1f} | {1e3 * statistics.median(after):.1f} | {spread} |"

    arms = [
        row(f"step of {arm}", [steps[arm] for _, steps in old], [steps[arm] for _, steps in new]) for arm in old[0][1]
    ]
    wall = row("whole command", [seconds for seconds, _ in old], [seconds for seconds, _ in new])
    return "\n".join(["| ms | before | now | ratio |", "| --- | ---: | ---: | ---: |", *arms, wall]) + "\n"


def main() -> None:
    """Measure both versions in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("old")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, dict[str, float]]]] = {given.old: [], sys.executable: []}
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study.yaml"
        study.write_text(STUDY, encoding="utf-8")
        for number in range(given.rounds):
            for python in sorted(found, reverse=bool(number % 2)):
                found[python].append(measured(python, study))
    text = f"{given.rounds} rounds in turns. {environment()}\n\n{table(found[given.old], found[sys.executable])}"
    print(text)
    publish(text, given.out)


if __name__ == "__main__":
    main()
