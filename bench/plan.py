"""Is the plan right? What it says of memory and time beside what a run of the same study needs.

python bench/plan.py --data FOLDER [--tokenizer FILE] [--minilm FOLDER] [--only tiny gpt2 minilm] [--out FILE]

FOLDER, FILE and MiniLM are those of speed.py; without one of them its combinations are left out. Every combination: the
plan from the configuration alone, its probe, and then a run in a process of its own (process peak, seconds) and once
more with every tensor counted (live peak). Prints, and appends to --out, one table.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from machine import environment, publish
from workloads import FULL, LORA_ALL, LORA_QKV, WORKLOADS, Workload, save_gpt2_small

import tunewise as tw
from tunewise.commands.opening import load_data
from tunewise.desk.protocol import resolve, schedule
from tunewise.executors import ask
from tunewise.executors.attempts import Attempts
from tunewise.executors.local.client import LocalExecutor
from tunewise.lab.train.updates import WATCHED_STEPS
from tunewise.records.plan import ArmPlan, PlanRequest, Speed
from tunewise.storage.ledger import Ledger

LIVE_PEAK = Path(__file__).parent / "live_peak.py"
LIMITS = {"tensors": 0.03, "process": 0.15, "step": 0.25}
MIB = 2**20
ARMS: dict[str, dict[str, Any]] = {"full": FULL, "LoRA r=8 qkv": LORA_QKV, "LoRA r=16 all-linear": LORA_ALL}
AGAIN = {"gradient_checkpointing": True}  # activations are computed again
SMALL = {"micro_batch_tokens": 256}


@dataclass(frozen=True)
class Combination:
    """One line of the table."""

    model: str
    arm: str
    train: dict[str, Any]

    def study(self, model: str, data: Path) -> tw.StudySpec:
        """A study whose one trial is this."""
        study = workload(self.model, ARMS[self.arm]).study(model, data)
        return study.replace(train=study.train.replace(**self.train))

    @property
    def title(self) -> str:
        """'full, checkpointing, micro-batches of 256'."""
        parts = [self.arm, *(["checkpointing"] if self.train.get("gradient_checkpointing") else [])]
        return ", ".join([*parts, f"micro-batches of {self.train.get('micro_batch_tokens', 2048):,}"])


COMBINATIONS = [
    Combination(model, arm, train)
    for model in ("tiny", "gpt2", "minilm")
    for arm, train in (
        ("full", {}),
        ("full", AGAIN),
        ("full", SMALL),
        ("LoRA r=8 qkv", {}),
        ("LoRA r=16 all-linear", {}),
        ("LoRA r=16 all-linear", AGAIN),
    )
]


@dataclass(frozen=True)
class Pair:
    """A figure as planned and as measured."""

    planned: float
    measured: float

    @property
    def error(self) -> float:
        """Planned over measured, less 1."""
        return self.planned / self.measured - 1


Row = tuple[Combination, dict[str, Pair]]


def workload(model: str, arm: dict[str, Any]) -> Workload:
    """E2E for the language models, TREC for MiniLM."""
    work = {"tiny": WORKLOADS["d"], "gpt2": WORKLOADS["a"], "minilm": WORKLOADS["c"]}[model]
    return replace(work, arm=arm, num_steps=6 if model == "gpt2" else 30)


def compared(study: tw.StudySpec) -> dict[str, Pair]:
    """Memory and time of the study's one trial."""
    with tempfile.TemporaryDirectory() as scratch, LocalExecutor() as executor:
        ledger = Ledger(Path(scratch) / "study")
        ledger.create()
        data = load_data(ledger, ask.prepare(executor, study, ledger.folder / "data"))
        resolved, folder = resolve.resolve(study, data), ledger.data_folder(data.key)
        plan = ask.plan(executor, resolved, folder, PlanRequest()).arms["arm"]
        speed = ask.probe(executor, resolved, folder, "arm", plan)
        spec = next(spec for spec in schedule.next_runs(resolved, data, [], ()) if spec.arm == "arm")
        record = Attempts(executor, ledger, study.machine).run(spec, folder)
        assert record.usage is not None, record.message
        assert record.usage.train_memory is not None, "it trains"
        seconds = [step["seconds"] for step in ledger.steps(spec.run_id)]
        counted = subprocess.run(
            [sys.executable, str(LIVE_PEAK), str(ledger.begin(spec)), str(folder)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    return dict(_pairs(plan, speed, record.usage.train_memory.above_start_bytes, seconds, int(counted.stdout)))


def _pairs(
    plan: ArmPlan, speed: Speed | None, process: int | None, seconds: list[float], tensors: int
) -> Iterator[tuple[str, Pair]]:
    if plan.step:
        yield "tensors", Pair(plan.step.total, tensors)
    if speed and speed.peak_above_start_bytes and process:
        yield "process", Pair(speed.peak_above_start_bytes, process)
    if speed:
        # the first one sets things up, and up to step 20 a run watches what becomes of its updates
        usual = seconds[WATCHED_STEPS.stop - 1 :] or seconds[1:]
        yield "step", Pair(speed.step_seconds, statistics.mean(usual))


def row(combination: Combination, found: dict[str, Pair]) -> str:
    """A line of the table."""
    cells = []
    for name, limit in LIMITS.items():
        if name not in found:
            cells.append("– | – | –")
            continue
        pair = found[name]
        scale, digits = (1000, 0) if name == "step" else (1 / MIB, 0)
        mark = "" if abs(pair.error) <= limit else " **over**"
        cells.append(
            f"{pair.planned * scale:,.{digits}f} | {pair.measured * scale:,.{digits}f} | {pair.error:+.1%}{mark}"
        )
    return f"| {combination.model} | {combination.title} | {' | '.join(cells)} |"


def table(rows: list[Row]) -> str:
    """Markdown: every combination, and how many of them keep the limits."""
    head = (
        "| model | arm | tensors, MiB: planned | measured | error | process, MiB: probed | measured | error "
        "| step, ms: probed | measured | error |\n| --- | --- |" + " ---: |" * 9
    )
    kept = []
    for name, limit in LIMITS.items():
        errors = [abs(found[name].error) for _, found in rows if name in found]
        if errors:
            inside = sum(error <= limit for error in errors)
            kept.append(f"{name} within {limit:.0%} in {inside} of {len(errors)} (largest error {max(errors):.1%})")
    lines = "\n".join(row(combination, found) for combination, found in rows)
    return (
        f"## The plan beside a run\n\n{environment()}\n\n"
        "Tensors: alive at the peak of an optimizer step. Process: peak of the training phase above the process before "
        f"the model is loaded.\n\n{head}\n{lines}\n\n{'; '.join(kept)}.\n"
    )


def models(given: argparse.Namespace, scratch: Path) -> dict[str, str]:
    """What is there to be planned: short name -> what a study calls it."""
    found = {"tiny": "tiny"}
    if given.tokenizer:
        found["gpt2"] = str(save_gpt2_small(scratch / "gpt2", given.tokenizer))
    if given.minilm:
        found["minilm"] = str(given.minilm)
    return {name: path for name, path in found.items() if name in given.only}


def main() -> None:
    """Compare all combinations and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--only", nargs="*", default=["tiny", "gpt2", "minilm"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        there = models(given, Path(scratch))
        for combination in COMBINATIONS:
            if combination.model not in there:
                continue
            found = compared(combination.study(there[combination.model], given.data))
            rows.append((combination, found))
            print(row(combination, found), flush=True)
    text = table(rows)
    print(text)
    publish(text, given.out)


if __name__ == "__main__":
    main()
