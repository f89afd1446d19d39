"""Measure what `tuning.search: short` saves and loses against full trials at every rate, with five seeds per arm.

python scripts/short_search.py e2e --data FOLDER_OF_E2E
python scripts/short_search.py trec6 --model FOLDER_OF_ALL_MINILM_L6_V2 --data FOLDER_OF_TREC6

Trains into runs/short-search-<name>-<seed>: first all seven rates in full, then the short search, which reuses the full
trials of the same records. Prints the table of docs/results.md. The same command resumes.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import tunewise as tw
from tunewise.commands.opening import load_data
from tunewise.desk.protocol import resolve, schedule
from tunewise.desk.protocol import trials as trials_module
from tunewise.executors import ask
from tunewise.executors.attempts import Attempts
from tunewise.executors.local.client import LocalExecutor
from tunewise.records import RunRecord
from tunewise.storage.ledger import Ledger

SEARCH_SEEDS = (11, 12, 13, 14, 15)
ARMS = {
    "e2e": {
        "full": {"method": "full", "learning_rate": 1e-3},
        "lora-r16-all": {"method": "lora", "rank": 16, "targets": "all-linear", "learning_rate": 1e-2},
    },
    "trec6": {
        "full": {"method": "full", "learning_rate": 1e-4},
        "lora-r8": {"method": "lora", "rank": 8, "targets": "all-linear", "learning_rate": 1e-3},
        "head": {"method": "head", "rates": [0.0135]},  # not searched here: its rate is fixed
    },
}
DATA = {
    "e2e": {"separator": " ->", "max_length": 256, "limit": {"train": 640, "valid": 150, "test": 50}},
    "trec6": {"max_length": 128, "limit": {"train": 240, "valid": 300, "test": 50}},
}
TRAIN = {
    "e2e": {"epochs": 1, "batch_size": 16, "evaluations": 2, "micro_batch_tokens": 1024},
    "trec6": {
        "epochs": 2, "batch_size": 16, "evaluations": 2, "micro_batch_tokens": 1024, "head_learning_rate": 0.0135,
    },
}  # fmt: skip


class Search(NamedTuple):
    """Result of one arm's search with one seed."""

    arm: str
    seed: int
    best_rate: float  # of all rates, trained in full
    best_loss: float  # on the validation set: NLL, or the error rate of a classification
    chosen_rate: float  # chosen by the short search
    chosen_loss: float  # trained in full, on the validation set
    seconds_share: float  # of training and scoring, short search over all rates in full

    @property
    def regret(self) -> float:
        """Excess validation loss, at full length, of the chosen rate over the best rate."""
        return self.chosen_loss - self.best_loss


def study(name: str, model: str, data: Path, seed: int, search: str) -> tw.StudySpec:
    """A study that tries seven rates around the same center by one of the two searches."""
    sources = {split: str(data / f"{split}.jsonl") for split in ("train", "valid", "test")}
    return tw.StudySpec.model_validate(
        {
            "name": f"short-search-{name}-{seed}",
            "model": model,
            "data": {**sources, **DATA[name]},
            "arms": ARMS[name],
            "train": TRAIN[name],
            "tuning": {"rates": 7, "cap": 7, "half_steps": False, "search": search},
            "seed": seed,
            "samples": {"count": 0},
            "forgetting": {"tokens": 0},
            "machine": {"threads": 1, "attention": "eager"},
            "keep": "none",
        }
    )


def seconds(records: list[RunRecord]) -> float:
    """Seconds of training and scoring."""
    return sum((r.usage.train_seconds or 0) + r.usage.evaluate_seconds for r in records if r.usage)


def trials(asked: tw.StudySpec, out: Path) -> tuple[list[RunRecord], dict[str, float]]:
    """Trials of a study and the rates that they choose; nothing is confirmed."""
    ledger = Ledger(out)
    ledger.create()
    with LocalExecutor() as executor:
        lab = Attempts(executor, ledger, asked.machine)
        data = load_data(ledger, ask.prepare(executor, asked, ledger.folder / "data"))
        resolved = resolve.resolve(asked, data)
        records = {r.run_id: r for r in ledger.records()}

        def current() -> list[RunRecord]:
            return schedule.current(resolved, data, list(records.values()))

        while specs := [s for s in schedule.next_runs(resolved, data, current(), ()) if s.role in ("short", "tune")]:
            for spec in specs:
                records[spec.run_id] = lab.run(spec, ledger.data_folder(data.key))
        made = [r for r in current() if r.spec.role in ("short", "tune")]
        return made, trials_module.selected_rates(resolved, made)


def searches(name: str, model: str, data: Path, seed: int) -> list[Search]:
    """Results of both searches for every searched arm with one seed."""
    out = Path("runs") / f"short-search-{name}-{seed}"
    made: dict[str, list[RunRecord]] = {}
    chosen: dict[str, dict[str, float]] = {}
    for kind in ("full-length", "short"):
        made[kind], chosen[kind] = trials(study(name, model, data, seed, kind), out)
    found = []
    for arm in (arm for arm in ARMS[name] if arm != "head"):
        in_full = [r for of in made.values() for r in of if (r.spec.arm, r.spec.role) == (arm, "tune")]
        loss = {r.spec.learning_rate: trials_module.selection_loss(r) for r in in_full}
        spent = {kind: seconds([r for r in of if r.spec.arm == arm]) for kind, of in made.items()}
        best, short = chosen["full-length"][arm], chosen["short"][arm]
        share = spent["short"] / spent["full-length"]
        found.append(Search(arm, seed, best, loss[best], short, loss[short], share))
    return found


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=sorted(ARMS))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    found = [s for seed in SEARCH_SEEDS for s in searches(given.name, given.model, given.data.resolve(), seed)]
    print("| data | arm | seed | best of 7 | loss on validation | short search | regret | share of the seconds |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for s in sorted(found):
        print(
            f"| {given.name} | {s.arm} | {s.seed} | {s.best_rate:g} | {s.best_loss:.4f} "
            f"| {s.chosen_rate:g} | {s.regret:.4f} | {s.seconds_share:.0%} |"
        )


if __name__ == "__main__":
    main()
