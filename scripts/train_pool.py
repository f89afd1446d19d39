"""Train the pools that scripts/replicate.py reads: scores of 40 seeds of real arms. Takes two hours on 2 cores.

python scripts/train_pool.py trec6 --model FOLDER_OF_ALL_MINILM_L6_V2 --data FOLDER_OF_TREC6
python scripts/train_pool.py sst2 --model FOLDER_OF_ALL_MINILM_L6_V2 --data FOLDER_OF_SST2
python scripts/train_pool.py e2e --model tiny --data FOLDER_OF_E2E      (minutes)

Everything goes through `tunewise.compare` into runs/pool-<name>; the same command resumes. `full` and `lora-r8` are
confirmed with 40 seeds at the rates that their searches found. Two arms that are known to be worse have 10 of them.
Writes scripts/pool/<name>.parquet with one row per arm, seed and test row.
"""

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import tunewise as tw
from tunewise.desk.metrics.scores import read_scores
from tunewise.desk.protocol import confirmations, schedule
from tunewise.records import RunRecord
from tunewise.storage.ledger import Ledger

NUM_SEEDS, NUM_CONTROL_SEEDS = 40, 10
# Rows for runs of seconds that still learn.
DATA: dict[str, dict[str, Any]] = {
    "trec6": {"max_length": 128, "limit": {"train": 480, "valid": 300, "test": 500}},
    "sst2": {"max_length": 128, "limit": {"train": 400, "valid": 200, "test": 250}},
    "e2e": {"max_length": 256, "limit": {"train": 160, "valid": 40, "test": 120}, "separator": " ->"},
}
TRAIN = {
    "trec6": {"epochs": 3, "batch_size": 16, "evaluations": 3},
    "sst2": {"epochs": 3, "batch_size": 8, "evaluations": 3},
    "e2e": {"epochs": 2, "batch_size": 16, "evaluations": 2},
}
# Centers at which three learning rates bracket; a model that writes has no new head.
CENTERS = {
    "trec6": {"full": 3e-4, "lora": 3e-3, "head": 1.35e-2},
    "sst2": {"full": 1e-4, "lora": 1e-3, "head": 4e-3},
    "e2e": {"full": 3e-3, "lora": 1e-2},
}
POOL = Path(__file__).parent / "pool"
POOL_SCHEMA = pa.schema(
    [
        ("arm", pa.dictionary(pa.int8(), pa.string())),
        ("learning_rate", pa.float64()),
        ("seed", pa.int16()),
        ("example", pa.dictionary(pa.int16(), pa.string())),
        ("unit", pa.dictionary(pa.int16(), pa.string())),
        ("label", pa.int8()),
        ("prediction", pa.int8()),
        ("nll", pa.float32()),
        ("tokens", pa.int32()),  # supervised ones; of labels 1
    ]
)


def pool_study(name: str, model: str, data: Path, arms: dict[str, object], num_seeds: int) -> tw.StudySpec:
    """Study whose confirmed runs are the pool, or these arms of the pool."""
    head = {part: {"method": part, "learning_rate": rate} for part, rate in CENTERS[name].items() if part == "head"}
    return tw.StudySpec.model_validate(
        {
            "name": f"pool-{name}",
            "model": model,
            "data": {**{split: str(data / f"{split}.jsonl") for split in ("train", "valid", "test")}, **DATA[name]},
            "arms": {**arms, **head},
            "train": {**TRAIN[name], "micro_batch_tokens": 1024},
            "looks": [num_seeds],
            "forgetting": {"tokens": 0},
            "samples": {"count": 0},
            "machine": {"threads": 1, "attention": "eager", "workers": 2, "test_set_ledger": False},
            "keep": "none",
        }
    )


def train_pool(name: str, model: str, data: Path, out: Path) -> dict[str, list[RunRecord]]:
    """Confirmed runs of every arm; the two worse arms use the first seeds of the others."""
    full, lora = CENTERS[name]["full"], CENTERS[name]["lora"]
    arms = {
        "full": {"method": "full", "learning_rate": full},
        "lora-r8": {"method": "lora", "rank": 8, "targets": "all-linear", "learning_rate": lora},
    }
    tw.compare(pool_study(name, model, data, arms, NUM_SEEDS), out)
    runs = confirmed(out)
    tenth = float(f"{(runs['full'][0].spec.learning_rate or 0) / 10:.3g}")
    known_worse = {
        "full-tenth": {"method": "full", "rates": [tenth]},
        "lora-r1-query": {"method": "lora", "rank": 1, "targets": r".*\.(query|c_attn)", "learning_rate": lora},
    }
    tw.compare(pool_study(name, model, data, known_worse, NUM_CONTROL_SEEDS), out)
    return runs | {arm: of_arm for arm, of_arm in confirmed(out).items() if arm in known_worse}


def confirmed(folder: Path) -> dict[str, list[RunRecord]]:
    """Confirmed runs of the study in a folder."""
    ledger = Ledger.open(folder)
    study, data = ledger.study(), ledger.data_summary()
    return confirmations.confirmed(study, schedule.current(study, data, ledger.records()))


def write_pool(folder: Path, runs: dict[str, list[RunRecord]], path: Path) -> None:
    """Table with one row per arm, seed and test row."""
    ledger = Ledger.open(folder)
    tables = []
    for arm, record in ((arm, record) for arm, of_arm in runs.items() for record in of_arm):
        scores = read_scores(ledger.scores_path(record.run_id), "test")
        num_rows = len(scores.examples)
        columns = {
            "arm": [arm] * num_rows,
            "learning_rate": [record.spec.learning_rate] * num_rows,
            "seed": [record.spec.seed] * num_rows,
            "example": scores.examples.tolist(),
            "unit": scores.units.tolist(),
            "label": scores.labels,
            "prediction": scores.predictions,
            "nll": scores.nll,
            "tokens": scores.num_tokens,
        }
        tables.append(pa.table({name: pa.array(values) for name, values in columns.items()}).cast(POOL_SCHEMA))
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), path, compression="zstd")


def main() -> None:
    """Train one pool and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=sorted(DATA))
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    out = Path("runs") / f"pool-{given.name}"
    write_pool(out, train_pool(given.name, given.model, given.data.resolve(), out), POOL / f"{given.name}.parquet")


if __name__ == "__main__":
    main()
