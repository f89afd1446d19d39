"""Write finished study folders of any size without a model, with seeded numbers in place of scores."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tunewise.desk.protocol import resolve, schedule
from tunewise.records import (
    SCORES_SCHEMA,
    WRITTEN_COLUMNS,
    DataSummary,
    Evaluation,
    Memory,
    RunRecord,
    SplitSummary,
    TrainableSummary,
    Usage,
)
from tunewise.spec import Inputs, RunSpec, StudySpec
from tunewise.storage.ledger import Ledger
from tunewise.storage.seal import seal_data

ARMS = {
    "full": {"method": "full"},
    "lora-r8": {"method": "lora", "rank": 8},
    "lora-r16": {"method": "lora", "rank": 16},
}
GAINS = {"full": 0.6, "lora-r8": 0.58, "lora-r16": 0.6, "base": 0.0}
NUM_STEPS = 126
MiB = 2**20


def write_study(
    folder: Path, test_rows: int, looks: list[int], num_classes: int = 0, arms: dict[str, Any] | None = None
) -> int:
    """Write a finished study to `folder` and return its number of runs. `num_classes` 0: generated text, no classes."""
    data = _summary({"train": 1000, "valid": 60, "test": test_rows}, num_classes)
    content = {"name": "load", "data": {"train": "builtin:stdlib"}, "arms": arms or ARMS, "looks": looks}
    content |= {"samples": {"count": 0}, "forgetting": {"tokens": 0}}
    study = resolve.resolve(StudySpec.model_validate(content), data)
    ledger = Ledger(folder)
    ledger.create()
    ledger.store_study(study)
    prepared = ledger.data_folder(data.key)
    prepared.mkdir(parents=True)
    (prepared / "data.json").write_text(data.model_dump_json(indent=1), encoding="utf-8")
    seal_data(prepared)
    rows = _Rows({split.split: split.rows for split in data.splits}, num_classes)
    records: list[RunRecord] = []
    while waiting := schedule.next_runs(study, data, records, ()):
        records += [_finish(ledger, spec, rows) for spec in waiting]
    return len(records)


class _Rows:
    """What all runs of a study share: difficulty, size and label of each row."""

    def __init__(self, sizes: dict[str, int], num_classes: int) -> None:
        rng = np.random.default_rng(0)
        self.sizes, self.num_classes = sizes, num_classes
        self.difficulty = {split: rng.normal(3.1, 0.35, rows) for split, rows in sizes.items()}
        self.tokens = {split: rng.integers(8, 60, rows) for split, rows in sizes.items()}
        self.labels = {split: rng.integers(0, max(num_classes, 1), rows) for split, rows in sizes.items()}

    def table(self, split: str, gain: float, rng: np.random.Generator) -> pa.Table:
        """Scores of a run on one split."""
        rows = self.sizes[split]
        mean_nll = self.difficulty[split] - gain + rng.normal(0, 0.03, rows)
        columns: dict[str, Any] = {
            "split": [split] * rows,
            "example": [f"{split}-{row}" for row in range(rows)],
            "unit": [f"module-{row // 2}" for row in range(rows)],
            "nll": mean_nll * self.tokens[split],
            "num_tokens": self.tokens[split],
            "num_bytes": 4 * self.tokens[split],
            "label": np.full(rows, -1),
            "prediction": np.full(rows, -1),
            "class_log_probabilities": pa.array([[]] * rows, pa.list_(pa.float64())),
            **{name: pa.nulls(rows, SCORES_SCHEMA.field(name).type) for name in WRITTEN_COLUMNS},
        }
        if self.num_classes:
            columns |= self._classes(split, mean_nll < 2.9, rng)
        return pa.table(columns, schema=SCORES_SCHEMA)

    def _classes(self, split: str, is_correct: Any, rng: np.random.Generator) -> dict[str, Any]:
        labels, rows = self.labels[split], self.sizes[split]
        predictions = np.where(is_correct, labels, (labels + 1) % self.num_classes)
        logits = rng.normal(0, 1, (rows, self.num_classes))
        logits[np.arange(rows), predictions] += 6
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        offsets = np.arange(rows + 1) * self.num_classes
        return {
            "nll": -log_probabilities[np.arange(rows), labels],
            "num_tokens": np.ones(rows, np.int64),
            "num_bytes": np.zeros(rows, np.int64),
            "label": labels,
            "prediction": predictions,
            "class_log_probabilities": pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), pa.array(log_probabilities.ravel())
            ),
        }


def _finish(ledger: Ledger, spec: RunSpec, rows: _Rows) -> RunRecord:
    trained = spec.learning_rate is not None
    rng = np.random.default_rng(list(f"{spec.arm} {spec.role} {spec.seed} {spec.learning_rate}".encode()))
    far = abs(math.log(spec.learning_rate / 1e-3)) if spec.learning_rate else 0.0
    gain = GAINS.get(spec.arm, 0.5) * math.exp(-0.1 * far**2)
    folder = ledger.begin(spec)
    if spec.score_splits:
        tables = [rows.table(split, gain, rng) for split in spec.score_splits]
        pq.write_table(pa.concat_tables(tables), folder / "scores.parquet")
    if trained:
        line = {"learning_rate": 1e-3, "gradient_norm": 1.0, "num_targets": 380, "num_tokens": 970, "seconds": 0.2}
        steps = ({"step": step, "loss": 3.1 - gain * step / NUM_STEPS, **line} for step in range(1, NUM_STEPS + 1))
        (folder / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
    record = _record(spec, gain, rows.num_classes > 0)
    ledger.finish(record)
    return record


def _record(spec: RunSpec, gain: float, classifies: bool) -> RunRecord:
    trained = spec.learning_rate is not None
    memory = Memory(peak_bytes=500 * MiB, above_start_bytes=100 * MiB)
    accuracy = 0.5 + 0.6 * gain if classifies else None
    evaluations = tuple(Evaluation(step=step, nll=3.1 - gain * step / 126, accuracy=accuracy) for step in (63, 126))
    return RunRecord(
        run_id=spec.run_id,
        spec=spec,
        status="done",
        tuned=TrainableSummary(
            trainable_parameters=4_340_000 if spec.method.method == "full" else 65_536,
            total_parameters=4_340_000,
            scale=2.0 if spec.method.method == "lora" else None,
            num_target_modules=16,
            linear_share=1.0,
            parameter_groups=("weights",),
        )
        if trained
        else None,
        num_steps=NUM_STEPS if trained else 0,
        evaluations=evaluations if trained else (),
        selected_step=126 if trained else None,
        usage=Usage(
            load_seconds=0.4,
            train_seconds=25.0 if trained else None,
            evaluate_seconds=3.1,
            num_tokens=121_000 if trained else 0,
            num_supervised_tokens=47_500 if trained else 0,
            load_memory=memory,
            train_memory=memory if trained else None,
            evaluate_memory=memory,
            saved_bytes=900_000 if spec.role == "confirm" else None,
        ),
    )


def _summary(rows: dict[str, int], num_classes: int) -> DataSummary:
    splits = tuple(
        SplitSummary(
            split=name,
            source="builtin:stdlib",
            rows_read=count,
            rows=count,
            units=(count + 1) // 2,
            tokens=count * 61,
            supervised_tokens=count * 24,
            truncated_rows=0,
            truncated_tokens=0,
            duplicates_dropped=0,
        )
        for name, count in rows.items()
    )
    versions = {"torch": "2.13", "transformers": "5.23", "peft": "0.21"}
    return DataSummary(
        key="0123abcd0123abcd",
        task="classify" if num_classes else "sft",
        labels=tuple(f"class {number}" for number in range(num_classes)),
        splits=splits,
        example_prompt="prompt",
        example_supervised="answer",
        notes=(),
        near_duplicates=0,
        inputs=Inputs(base="b" * 64, tokenizer="t" * 64, data="d" * 64, general=None, existing=None, versions=versions),
        model_type="gpt2",
        hidden_size=256,
        arms={},
        num_new_parameters=771 if num_classes else 0,
        device="cpu",
        precision="fp32",
        threads=2,
    )
