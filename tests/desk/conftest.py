"""A whole study folder without a model: the schedule is asked what to run, and seeded plausible numbers answer."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import make_data_summary, make_inputs
from tunewise.commands.running import next_runs
from tunewise.desk.protocol import centres, resolve
from tunewise.desk.study.declarations import declarations
from tunewise.desk.study.state import StudyState
from tunewise.executors.base import PrepareJob, RunJob
from tunewise.records import (
    FORGETTING_SCHEMA,
    LOST,
    SCORES_SCHEMA,
    SPECTRUM_SCHEMA,
    WRITTEN_COLUMNS,
    DataSummary,
    Environment,
    Evaluation,
    Memory,
    RunRecord,
    Sample,
    SplitSummary,
    TrainableSummary,
    Usage,
    events,
    extracted_split,
    truncated_split,
)
from tunewise.records.events import Event
from tunewise.spec import FullMethod, HeadMethod, LoraMethod, RunSpec, StudySpec
from tunewise.storage.ledger import Ledger
from tunewise.storage.seal import seal_data

MiB = 2**20
NUM_STEPS = 126
ROWS = {"valid": 60, "test": 150, "general": 12}
LABELS = ("negative", "neutral", "positive")
VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0", "tunewise": "0.1.0"}

# What tuning gains over the base at the best rate, nats per supervised token.
GAINS = {"base": 0.0, "full": 0.62, "lora-r8": 0.615, "lora-r16-all": 0.621, "lora-r1-query": 0.41, "head": 0.12}
ARMS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora-r8": {"method": "lora", "rank": 8, "targets": "qkv"},
    "lora-r16-all": {"method": "lora", "rank": 16, "targets": "all-linear"},
}


def study_spec(**changes: Any) -> StudySpec:
    content: dict[str, Any] = {
        "name": "docstrings",
        "data": {"train": "builtin:stdlib"},
        "arms": ARMS,
        "looks": [3],
        "samples": {"count": 2},
    }
    return StudySpec.model_validate({**content, **changes})


def data_summary(task: str = "sft", **changes: Any) -> DataSummary:
    def split(name: str, rows: int) -> dict[str, Any]:
        return SplitSummary(
            split=name,
            source="builtin:stdlib",
            rows_read=rows + 3,
            rows=rows,
            units=math.ceil(rows / 2),
            tokens=rows * 61,
            supervised_tokens=rows * 24,
            truncated_rows=0,
            truncated_tokens=0,
            duplicates_dropped=3 if name == "train" else 0,
        ).model_dump()

    content = {
        "key": "0123abcd0123abcd",
        "task": task,
        "labels": LABELS if task == "classify" else (),
        "splits": [split("train", 1000), split("valid", ROWS["valid"]), split("test", ROWS["test"])],
        "example_prompt": "def clamp(value, low, high):\n",
        "example_supervised": "Return value, but at least low and at most high.",
        "notes": ["valid and test were split off by module: 10 % each."],
        "inputs": make_inputs(
            base="b" * 64,
            tokenizer="t" * 64,
            data="d" * 64,
            general=None if task == "classify" else "g" * 64,
            versions={"torch": "2.13", "transformers": "5.23", "peft": "0.21"},
        ),
        "hidden_size": 256,
        "num_new_parameters": 771 if task == "classify" else 0,
        "threads": 2,
    }
    return make_data_summary(**{**content, **changes})


Change = Callable[[RunRecord], RunRecord]


def unchanged(record: RunRecord) -> RunRecord:
    return record


def prepared(job: PrepareJob, summary: DataSummary) -> events.Prepared:
    """Data of that summary and no rows stands in the folder."""
    folder = job.root / summary.key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(summary.model_dump_json(), encoding="utf-8")
    seal_data(folder)
    return events.Prepared(key=summary.key)


def run_of(job: RunJob) -> tuple[RunSpec, Ledger]:
    """The run that a job asks for, and the study folder that it is in."""
    spec = RunSpec.model_validate_json((job.folder / "spec.json").read_text(encoding="utf-8"))
    return spec, Ledger(job.folder.parent.parent)


class FakeLab:
    """Answers every RunSpec with a record and its files, from `seed` alone."""

    def __init__(self, ledger: Ledger, study: StudySpec, data: DataSummary, change: Change, seed: int = 0) -> None:
        self.ledger, self.study, self.data, self.change = ledger, study, data, change
        rng = np.random.default_rng(seed)
        self.difficulty = {split: rng.normal(3.1, 0.35, rows) for split, rows in ROWS.items()}
        self.tokens = {split: rng.integers(8, 60, rows) for split, rows in ROWS.items()}
        self.labels = {split: rng.integers(0, len(LABELS), rows) for split, rows in ROWS.items()}

    def run(self, spec: RunSpec) -> RunRecord:
        """A finished run in the ledger; the record is returned."""
        before = self.ledger.record(spec.run_id)
        folder = self.ledger.begin(spec)
        # not of the id, which every new field of a spec changes
        name = f"{spec.arm} {spec.role} {spec.seed} {spec.learning_rate}"
        rng = np.random.default_rng(list((spec.inputs.existing or name).encode()))
        distance = self._distance(spec)
        trained = spec.learning_rate is not None
        diverged = distance > 2.5
        distance = abs(distance)
        gain = GAINS.get(spec.arm, 0.5) * math.exp(-0.25 * distance**2)
        gain += rng.normal(0, 0.0015) if self._varies(spec) else 0
        pq.write_table(self._scores(spec, gain, rng), folder / "scores.parquet")
        if trained:
            self._write_steps(folder / "steps.jsonl", spec, gain, rng)
        if isinstance(spec.method, FullMethod) and spec.method.extract:
            pq.write_table(self._spectrum(), folder / "spectrum.parquet")
        if spec.forgetting_points:
            self._write_forgetting(folder / "forgetting.parquet", spec, gain)
        record = RunRecord(
            run_id=spec.run_id,
            spec=spec,
            status="diverged" if diverged else "done",
            message="the loss is not finite at step 40" if diverged else None,
            tuned=self._tuned(spec) if trained else None,
            num_steps=NUM_STEPS if trained else 0,
            evaluations=self._evaluations(spec, gain) if trained and not diverged or spec.role == "base" else (),
            selected_step=94 if trained and not diverged else None,
            rank_patterns={rank: {"h.0.c_attn": 2 * rank - 1, "h.1.c_attn": 1} for rank in spec.ranks},
            samples=self._samples(spec),
            usage=self._usage(spec, rng),
            environment=environment(),
        )
        record = self.change(record).replace(attempts=before.attempts + 1 if before else 1)
        self.ledger.finish(record)
        return record

    def answer(self, job: RunJob) -> Iterator[Event]:
        """What an executor is told of the run of a job; a lost one leaves no record."""
        record = self.run(run_of(job)[0])
        if record.status in LOST:
            self.ledger.begin(record.spec)  # which deletes the record of before
            yield events.Crashed(message=record.message or "it broke", log="log.txt")
            yield events.End(code=1)

    def _distance(self, spec: RunSpec) -> float:
        """How many grid places the rate is above the best one; negative: below."""
        if spec.learning_rate is None:
            return 0.0
        best = centres.centre(self.study, self.data, spec.method)
        return math.log(spec.learning_rate / best, self.study.tuning.spacing)

    def _varies(self, spec: RunSpec) -> bool:
        """Whether the seeds of the arm differ: it is trained, here or elsewhere."""
        return spec.learning_rate is not None or isinstance(self.data.existing.get(spec.arm), tuple)

    def _scores(self, spec: RunSpec, gain: float, rng: np.random.Generator) -> pa.Table:
        splits = [*spec.score_splits, *(["general"] if spec.inputs.general else [])]
        columns: dict[str, list[Any]] = {name: [] for name in SCORES_SCHEMA.names if name not in WRITTEN_COLUMNS}
        for split in splits:
            forgotten = {"full": 0.09, "base": 0.0}.get(spec.arm, 0.03)
            shift = forgotten if split == "general" else -gain
            mean_nll = self.difficulty[split] * (1 + shift / 3.1)
            if self._varies(spec):
                mean_nll = mean_nll + rng.normal(0, 0.03, ROWS[split])
            for row in range(ROWS[split]):
                self._add_row(columns, split, row, float(mean_nll[row]))
            for rank, spread in itertools.product(spec.ranks if split == "valid" else (), (False, True)):
                # what is lost halves with every rank, and is less where the ranks are spread
                lost = (0.9 if spread else 1.0) * gain * 0.25 * 2.0**-rank * rng.uniform(0.8, 1.2, ROWS[split])
                for row in range(ROWS[split]):
                    name = truncated_split(split, rank, spread)
                    self._add_row(columns, split, row, float(mean_nll[row] + lost[row]), name)
            extract = spec.method.extract if isinstance(spec.method, FullMethod) and split == "valid" else {}
            for targets, rank in [(name, rank) for name, ranks in extract.items() for rank in (*ranks, None)]:
                # of all linear modules the whole change is worth all of the gain but 0.001, of others half
                share = (0.5**rank if rank else 0.0) + (0.001 if targets == "all-linear" else 0.5)
                lost = gain * share * rng.uniform(0.8, 1.2, ROWS[split])
                for row in range(ROWS[split]):
                    name = extracted_split(split, targets, rank)
                    self._add_row(columns, split, row, float(mean_nll[row] + lost[row]), name)
        written = [self._written(columns["split"][i], columns["nll"][i]) for i in range(len(columns["split"]))]
        return pa.table(
            columns | {name: [row.get(name) for row in written] for name in WRITTEN_COLUMNS}, schema=SCORES_SCHEMA
        )

    def _spectrum(self) -> pa.Table:
        """Two modules: one changed in two directions, one not at all."""
        values = ([3.0, 4.0, *[0.0] * 14], [0.0] * 16)
        rows = [
            {
                "module": f"h.{number}.c_attn",
                "num_outputs": 48,
                "num_inputs": 16,
                "base_norm": 50.0,
                "singular_values": sorted(of_module, reverse=True),
                "intruders": 1 - number,
            }
            for number, of_module in enumerate(values)
        ]
        return pa.Table.from_pylist(rows, schema=SPECTRUM_SCHEMA)

    def _written(self, split: str, nll: float) -> dict[str, Any]:
        if split != "test" or not self.study.metrics:
            return {}
        statistics = [(metric.name, [float(nll % 1 < 0.6)]) for metric in self.study.metrics]
        return {"generated": "x", "num_generated": int(nll), "stopped": True, "statistics": statistics}

    def _add_row(
        self, columns: dict[str, list[Any]], split: str, row: int, mean_nll: float, name: str | None = None
    ) -> None:
        classify = self.study.task == "classify"
        tokens = 1 if classify else int(self.tokens[split][row])
        label = int(self.labels[split][row]) if classify else -1
        correct = mean_nll < 3.0
        right, wrong = (0.7, 0.15) if correct else (0.2, 0.4)
        values = {
            "split": name or split,
            "example": f"{split}-{row}",
            "unit": f"module-{row if split == 'general' else row // 2}",
            "nll": -math.log(right) * mean_nll / 3.0 if classify else mean_nll * tokens,
            "num_tokens": tokens,
            "num_bytes": 0 if classify else 4 * tokens,
            "label": label,
            "prediction": (label if correct else (label + 1) % len(LABELS)) if classify else -1,
            "class_log_probabilities": [math.log(right if i == label else wrong) for i in range(3)] if classify else [],
        }
        for name, value in values.items():
            columns[name].append(value)

    def _evaluations(self, spec: RunSpec, gain: float) -> tuple[Evaluation, ...]:
        accuracy = 0.5 + 0.6 * gain if self.study.task == "classify" else None
        if spec.role == "base":
            return (Evaluation(step=0, nll=3.1, accuracy=accuracy),)
        shares = (0.72, 0.93, 1.0, 0.985)
        steps = [round(NUM_STEPS * (i + 1) / 4) for i in range(4)]
        return tuple(
            Evaluation(step=s, nll=3.1 - gain * g, accuracy=accuracy) for s, g in zip(steps, shares, strict=True)
        )

    def _write_steps(self, path: Path, spec: RunSpec, gain: float, rng: np.random.Generator) -> None:
        rate = spec.learning_rate or 0.0
        lines = []
        for step in range(1, NUM_STEPS + 1):
            loss = 3.1 - (gain + 0.08) * (1 - math.exp(-step / 25)) + rng.normal(0, 0.06)
            line = {"step": step, "loss": loss, "learning_rate": rate * (1 - step / NUM_STEPS), "gradient_norm": 1.0}
            lines.append(json.dumps({**line, "num_targets": 380, "num_tokens": 970, "seconds": 0.2}))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _write_forgetting(self, path: Path, spec: RunSpec, gain: float) -> None:
        """Valid falls and general text rises in a straight line from step 0 to the end."""
        shift = {"full": 0.09}.get(spec.arm, 0.03)
        rows = [
            {
                "step": round(NUM_STEPS * share),
                "valid_nll": 3.1 - gain * share,
                "unit": f"module-{row}",
                "nll": (self.difficulty["general"][row] + shift * share) * int(self.tokens["general"][row]),
                "num_tokens": int(self.tokens["general"][row]),
            }
            for share in (i / spec.forgetting_points for i in range(spec.forgetting_points + 1))
            for row in range(ROWS["general"])
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=FORGETTING_SCHEMA), path)

    def _tuned(self, spec: RunSpec) -> TrainableSummary:
        total = 4_340_000
        if isinstance(spec.method, LoraMethod):
            per_rank = 4096 if spec.method.targets == "qkv" else 20480
            trainable = per_rank * spec.method.top_rank
            share = 0.25 if spec.method.targets == "qkv" else 1.0
            return TrainableSummary(
                trainable_parameters=trainable,
                total_parameters=total + trainable,
                scale=spec.method.scale,
                num_target_modules=4 if spec.method.targets == "qkv" else 16,
                linear_share=share,
                rank_parameters=per_rank,
                parameter_groups=(f"adapter: {trainable} at {spec.learning_rate}",),
            )
        trainable = 771 if isinstance(spec.method, HeadMethod) else total
        return TrainableSummary(
            trainable_parameters=trainable,
            total_parameters=total,
            scale=None,
            num_target_modules=None,
            linear_share=None,
            parameter_groups=(f"weights: {trainable} at {spec.learning_rate}",),
        )

    def _usage(self, spec: RunSpec, rng: np.random.Generator) -> Usage:
        trained, full = spec.learning_rate is not None, isinstance(spec.method, FullMethod)
        slow = float(rng.uniform(0.97, 1.03))
        peak = (612 if full else 533) * MiB
        return Usage(
            load_seconds=0.4,
            train_seconds=(27.4 if full else 21.9) * slow if trained else None,
            evaluate_seconds=3.1,
            num_tokens=121_000 if trained else 0,
            num_supervised_tokens=47_500 if trained else 0,
            load_memory=Memory(peak_bytes=410 * MiB, above_start_bytes=60 * MiB),
            train_memory=Memory(peak_bytes=peak, above_start_bytes=peak - 350 * MiB) if trained else None,
            evaluate_memory=Memory(peak_bytes=480 * MiB, above_start_bytes=130 * MiB),
            saved_bytes=self._saved_bytes(spec) if trained and spec.role == "confirm" else None,
        )

    def _saved_bytes(self, spec: RunSpec) -> int:
        return self._tuned(spec).trainable_parameters * 4 + 900

    def _samples(self, spec: RunSpec) -> tuple[Sample, ...]:
        return tuple(
            Sample(
                example=f"test-{i}",
                prompt=f"def join_{i}(parts, separator=', '):\n",
                output=f"Return the {spec.arm} join of parts.",
                reference="Return the parts joined by the separator.",
            )
            for i in range(spec.samples.count)
        )


def environment(**changes: Any) -> Environment:
    content = {
        "python": "3.12.8",
        "system": "Linux 6.8 x86_64",
        "device": "cpu",
        "device_name": "Example CPU @ 2.4 GHz",
        "num_cores": 2,
        "threads": 2,
        "memory_bytes": 8 * 2**30,
        "versions": VERSIONS,
    }
    return Environment.model_validate({**content, **changes})


def write_study(
    folder: Path,
    study: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    max_runs: int | None = None,
    change: Change = unchanged,
) -> Ledger:
    """A study folder with its first `max_runs` runs finished (None: all that the schedule asks for).

    `study` and `data` change the defaults above; `change` alters every record before it is stored.
    """
    summary = data_summary(**(data or {}))
    resolved = resolve.resolve(study_spec(**(study or {})), summary)
    ledger = Ledger(folder)
    ledger.create()
    ledger.store_study(resolved)
    ledger.data_folder(summary.key).mkdir(parents=True)
    (ledger.data_folder(summary.key) / "data.json").write_text(summary.model_dump_json(indent=1), encoding="utf-8")
    seal_data(ledger.data_folder(summary.key))
    lab = FakeLab(ledger, resolved, summary, change)
    made = 0
    while True:
        state = StudyState.of(resolved, summary, ledger.records(), ledger)
        waiting = next_runs(state)
        if not waiting:
            return ledger
        for spec in waiting:
            if max_runs is not None and made >= max_runs:
                return ledger
            if spec.role == "confirm" and ledger.declared() is None:  # as the driver does
                ledger.declare(declarations(resolved, summary))
            lab.run(spec)
            made += 1


StudyWriter = Callable[..., Ledger]


@pytest.fixture
def make_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyWriter:
    """Writes a fake study into the test's own folder; arguments of `write_study`."""
    monkeypatch.setattr("tunewise.storage.disk.sync", lambda path: None)  # half of the time, and no power cut is tested
    numbers = itertools.count()
    return lambda **arguments: write_study(tmp_path / f"study-{next(numbers)}", **arguments)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A complete study of three arms and three seeds. Tests must not change it."""
    return write_study(tmp_path_factory.mktemp("finished") / "docstrings")
