"""How much time several workers save: measured on this machine, or simulated from the run times of a finished study.

python bench/workers.py simulate FOLDER ...    the driver's own loop on a virtual clock, with 1 to 512 workers
python bench/workers.py measure [--ray]         a study of 25 runs with 1 worker and with 2, one thread each

The ideal is the sum of all run times, divided by the number of workers. The longest chain is a bound that no number of
workers can beat: runs that wait for each other, because a search goes on from what it has seen.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from tunewise.commands.running import Running
from tunewise.desk.protocol.resolve import resolve
from tunewise.executors.base import Executor
from tunewise.executors.places import Places
from tunewise.inputs.input_files import InputFiles
from tunewise.records import RunRecord
from tunewise.records.events import unheard
from tunewise.spec import MachineSpec, RunSpec
from tunewise.storage.ledger import Ledger

WORKERS = (1, 2, 8, 64, 512)
STAGES = ("base", "tune", "confirm")
Span = tuple[datetime, datetime, int]  # start and end of a run, and its stage


# --- simulated


class ReadOnly(Ledger):
    """A finished study folder, in which nothing is changed."""

    def declare(self, declared: Mapping[str, object]) -> None:
        """Leave the declaration as it is."""

    def drop_weights(self, run_id: str) -> None:
        """Leave the weights as they are."""

    def has_weights(self, arm: str, record: RunRecord) -> bool:
        """No run is made again for its weights."""
        return True


class VirtualPlaces(Places):
    """Places on a virtual clock, where a run takes as long as it did in the finished study."""

    def __init__(
        self, number: int, ledger: Ledger, records: Mapping[str, RunRecord], seconds: Mapping[str, float]
    ) -> None:
        super().__init__([_not_opened] * number, ledger, MachineSpec(), unheard)
        self.records, self.seconds = records, seconds
        self.clock = 0.0
        self.ends: dict[str, float] = {}

    def may_start(self, spec: RunSpec) -> bool:
        """Whether a place is free."""
        return len(self.under_way) < self.num_places

    def start(self, spec: RunSpec, data_folder: Path) -> None:
        """Begin a run now."""
        self.under_way[spec.run_id] = spec
        self.ends[spec.run_id] = self.clock + self.seconds[spec.run_id]

    def ended(self) -> RunRecord:
        """The run that ends next; its end is now."""
        run_id = min(self.under_way, key=lambda run: self.ends[run])
        self.clock = self.ends[run_id]
        del self.under_way[run_id]
        return self.records[run_id]


def _not_opened() -> Executor:
    raise AssertionError("a virtual place is not opened")


def seconds_of(records: Sequence[RunRecord]) -> dict[str, float]:
    """Seconds of each run, without the start of its process: the median of its arm and role, since they are equal."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        usage = record.usage
        seconds = usage.load_seconds + (usage.train_seconds or 0.0) + usage.evaluate_seconds if usage else 0.0
        found.setdefault((record.spec.arm, record.spec.role), []).append(seconds)
    return {record.run_id: statistics.median(found[record.spec.arm, record.spec.role]) for record in records}


def simulate(folder: Path, overhead: float) -> None:
    """Print a table of the wall time of a finished study with more workers."""
    ledger = ReadOnly(folder)
    data = ledger.data_summary()
    records = {record.run_id: record for record in ledger.records()}
    seconds = {run: overhead + value for run, value in seconds_of(list(records.values())).items()}
    times = list(seconds.values())
    print(f"{folder.name}: {len(times)} runs, {sum(times) / 3600:.2f} h, median {statistics.median(times):.0f} s")
    print("| workers | wall time, s | ideal, s | share of ideal | workers busy |\n| ---: | ---: | ---: | ---: | ---: |")
    for number in WORKERS:
        places = VirtualPlaces(number, ledger, records, seconds)
        Running(resolve(ledger.study(), data), data, places, InputFiles({}), []).finish()
        ideal = max(sum(times) / number, max(times))
        busy = sum(times) / (number * places.clock)
        print(f"| {number} | {places.clock:,.0f} | {ideal:,.0f} | {ideal / places.clock:.0%} | {busy:.0%} |")


# --- measured


def measure(workers: int, rounds: int, with_ray: bool) -> None:
    """Print wall times of a study of equal runs, with one worker and with several, in turns."""
    contenders = [(1, "local"), (workers, "local"), *([(workers, "ray")] if with_ray else [])]
    found: dict[tuple[int, str], list[float]] = {contender: [] for contender in contenders}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(rounds):
            for number, executor in found:
                seconds = _seconds_of_runs(Path(name) / f"{executor}-{number}-{turn}", number, executor)
                found[number, executor].append(seconds)
                print(json.dumps({"workers": number, "on": executor, "seconds": round(seconds, 1)}), flush=True)
    alone = statistics.median(found[1, "local"])
    for number, executor in contenders[1:]:
        shared = statistics.median(found[number, executor])
        print(f"{number} workers on {executor}: {shared:.1f} s for {alone:.1f} s, {alone / shared:.2f} times as fast")


def _seconds_of_runs(out: Path, workers: int, executor: str) -> float:
    """From the start of the first run to the end of the last."""
    command = [
        *(sys.executable, "-m", "tunewise", "compare", "--model", "tiny", "--data", "builtin:tickets", "--offline"),
        *("--arm", "full=full", "--arm", "lora=lora,rank=8", "--workers", str(workers), "--out", str(out)),
        *("--set", "train.max_steps=40", "--set", "tuning.rates=1", "--set", "tuning.cap=1", "--set", "looks=[11]"),
        *(
            "--set",
            "machine.threads=1",
            "--set",
            "forgetting.tokens=0",
            "--set",
            "samples.count=0",
            "--executor",
            executor,
        ),
    ]
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    total = time.monotonic() - begin
    spans = [(r.usage.started, r.usage.ended, r.spec.role) for r in Ledger(out).records() if r.usage]
    known: list[Span] = sorted((a, b, STAGES.index(role)) for a, b, role in spans if a and b)
    runs = (max(b for _, b, _ in known) - known[0][0]).total_seconds()
    inside = sum((b - a).total_seconds() for a, b, _ in known) / workers
    beside = {"beside": (runs - inside) * workers / len(known), "of_it_between": _between(known, workers) / len(known)}
    print(json.dumps({"command": round(total, 1), "per_run": {of: round(each, 2) for of, each in beside.items()}}))
    return runs


def _between(known: Sequence[Span], workers: int) -> float:
    """Seconds from the moment at which a run could start to its start, of all runs.

    It could start when a place was free and all runs of the stages before had ended. The rest of the time beside runs
    is that of places without a run to make.
    """
    free, seconds = [known[0][0]] * workers, 0.0
    for start, end, stage in known:
        place = free.index(min(free))
        could = max([free[place], *(b for _, b, before in known if before < stage)])
        seconds += (start - could).total_seconds()
        free[place] = end
    return seconds


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    simulating = commands.add_parser("simulate")
    simulating.add_argument("folders", type=Path, nargs="+")
    simulating.add_argument("--overhead", type=float, default=0.3, help="seconds that every run needs besides")
    simulating.set_defaults(do=lambda given: [simulate(folder, given.overhead) for folder in given.folders])
    measuring = commands.add_parser("measure")
    measuring.add_argument("--workers", type=int, default=2)
    measuring.add_argument("--rounds", type=int, default=3)
    measuring.add_argument("--ray", action="store_true")
    measuring.set_defaults(do=lambda given: measure(given.workers, given.rounds, given.ray))
    given = parser.parse_args()
    do: Callable[[argparse.Namespace], object] = given.do
    do(given)


if __name__ == "__main__":
    main()
