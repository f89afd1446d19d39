"""Laws 31 and 33: what selection looks at, how often test is scored, and that no record depends on who ran it when."""

import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_studies import FolderOf, SmallStudy, rows_of, small_study

import tunewise.lab.run.context
from desk import simulated_study
from tunewise.commands.deliver import deliver, tidy
from tunewise.desk.report.compose.build import build_report
from tunewise.executors.attempts import Attempts
from tunewise.executors.local.client import LocalExecutor
from tunewise.lab.data.batching import Example
from tunewise.lab.evaluate.score import score
from tunewise.records import RunRecord
from tunewise.spec import MachineSpec, RunSpec
from tunewise.storage.files import file_hash
from tunewise.storage.ledger import Ledger

MODELS = [("llama", "sft"), ("bert", "classify")]
ARMS = {"full": {"method": "full", "learning_rate": 1e-3}, "lora": {"method": "lora", "learning_rate": 1e-2}}
PROTOCOL: dict[str, Any] = {
    "train": {"max_steps": 8, "batch_size": 4, "evaluations": 4},
    "tuning": {"rates": 2, "cap": 2},
    "looks": [2],
}
Key = tuple[str, str, int, float | None]


def study_of(root: Path, model: Path, task: str, **changes: Any) -> SmallStudy:
    return small_study(root, model, task, ARMS, **{**PROTOCOL, **changes})


def key(spec: RunSpec) -> Key:
    """Which run of a study it is, whatever its data."""
    return spec.arm, spec.role, spec.seed, spec.learning_rate


def scored(study: SmallStudy, record: RunRecord) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(study.ledger.scores_path(record.run_id)).to_pylist()
    return rows


def nll_of(study: SmallStudy, record: RunRecord, split: str) -> list[float]:
    return [row["nll"] for row in scored(study, record) if row["split"] == split]


# --- law 31


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), MODELS)
def test_law_31_test_is_scored_once_per_confirmed_run_and_the_ledger_shows_it(
    name: str, task: str, folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 31: no trial sees a row of test; the base and every confirmed run score each row once, and what the study
    folder holds are these scores, one set per arm and seed."""
    study = study_of(tmp_path, folder_of(name), task)
    read: dict[str, Counter[str]] = {}
    running: list[str] = []

    def count(model: torch.nn.Module, examples: Sequence[Example], *others: Any) -> list[dict[str, Any]]:
        read[running[-1]].update(example.example for example in examples)
        return score(model, examples, *others)

    monkeypatch.setattr(tunewise.lab.run.context, "score", count)
    while waiting := study.waiting():
        for spec in waiting:
            running.append(spec.run_id)
            read[spec.run_id] = Counter()
            study.run(spec)
    once = {f"test:{row + 1}": 1 for row in range(8)}
    sets_of_scores: Counter[tuple[str, int]] = Counter()
    for record in study.records():
        seen = {example: times for example, times in read[record.run_id].items() if example.startswith("test:")}
        stored = Counter(row["example"] for row in scored(study, record) if row["split"] == "test")
        if record.spec.role == "tune":
            assert (seen, stored) == ({}, {}), record.spec.arm
        else:
            assert seen == stored == once, record.spec.arm
            sets_of_scores[record.spec.arm, record.spec.seed] += 1
    seeds = study.study.confirmation_seeds()
    trained = {(arm, seed) for arm in study.study.arms for seed in seeds}
    assert sets_of_scores == dict.fromkeys({("base", seeds[0]), *trained}, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), MODELS)
def test_law_31_selection_is_the_same_whatever_test_holds(
    name: str, task: str, folder_of: FolderOf, tmp_path: Path
) -> None:
    """Law 31: with other rows in test, the same rates are chosen, the same steps, the same weights, and the same run of
    every arm is handed over; only the scores on test differ."""
    rows = rows_of(task)
    answer = "label" if task == "classify" else "completion"
    others = [
        *rows[:32],
        *({**row, answer: other[answer]} for row, other in zip(rows[32:], rows[33:39] + rows[:2], strict=True)),
    ]
    found = []
    for number, of_study in enumerate((rows, others)):
        study = study_of(tmp_path / str(number), folder_of(name), task, rows=of_study).finish()
        records = {key(record.spec): record for record in study.records()}
        tidy(study.ledger, study.study, study.records())
        deliver(study.ledger, study.study, study.records())
        selected = {
            one: (record.evaluations, record.selected_step, record.weights, nll_of(study, record, "valid"))
            for one, record in records.items()
        }
        handed_over = {
            arm: {file.name: file_hash(file) for file in study.ledger.best_folder(arm).glob("*.safetensors")}
            for arm in study.study.arms
        }
        tested = {one: nll_of(study, record, "test") for one, record in records.items()}
        found.append((selected, handed_over, tested))
    (selected, handed_over, tested), (selected_again, handed_over_again, tested_again) = found
    assert selected.keys() == selected_again.keys(), "the same rates were tried and chosen"
    assert selected == selected_again
    assert all(handed_over.values())
    assert handed_over == handed_over_again
    assert all(tested[one] != tested_again[one] for one in tested if one[1] != "tune")


# --- law 33


def content(study: SmallStudy) -> dict[Key, Any]:
    """All that the records hold, what a run cost aside; of the log of steps all but the seconds."""
    return {
        key(record.spec): (
            record.model_dump(exclude={"usage", "files"}),
            {name: digest for name, digest in record.files.items() if name != "steps.jsonl"},
            [{**step, "seconds": None} for step in study.ledger.steps(record.run_id)],
        )
        for record in study.records()
    }


def mixed(waiting: list[RunSpec]) -> list[RunSpec]:
    """Another order, and another random state than the one that the run before left."""
    torch.manual_seed(len(waiting))
    return random.Random(5).sample(waiting, len(waiting))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), MODELS)
def test_law_33_records_and_report_do_not_depend_on_the_order_of_the_runs(
    name: str, task: str, folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 33: runs made in another order leave the same records, scores and weights, and any order of these records
    gives the same report."""
    more = {"forgetting": {"tokens": 100, "points": 2}, "samples": {"count": 2, "max_new_tokens": 3}}
    study = study_of(tmp_path / "one", folder_of(name), task, **more).finish()
    other = study_of(tmp_path / "other", folder_of(name), task, **more).finish(mixed)
    assert len(content(study)) == len(study.records()) >= 9
    assert content(other) == content(study)
    report = build_report(study.ledger)
    records = study.ledger.records()
    for order in (records[::-1], random.Random(1).sample(records, len(records))):
        monkeypatch.setattr(Ledger, "records", lambda ledger, order=order: order)
        assert build_report(study.ledger) == report


@pytest.mark.slow
def test_law_33_records_do_not_depend_on_the_number_of_workers(folder_of: FolderOf, tmp_path: Path) -> None:
    """Law 33: two worker processes that share out the runs, both at work at once, leave the records that one leaves."""
    small = {"tuning": {"rates": 1, "cap": 1}, "looks": [1]}
    alone, shared = (study_of(tmp_path / name, folder_of("llama"), "sft", **small) for name in ("alone", "shared"))
    with LocalExecutor() as first, LocalExecutor() as second, ThreadPoolExecutor(2) as pool:

        def work(executor: LocalExecutor, study: SmallStudy, specs: Sequence[RunSpec]) -> None:
            for spec in specs:
                Attempts(executor, study.ledger, MachineSpec()).run(spec, study.data_folder)

        while waiting := alone.waiting():
            work(first, alone, waiting)
        while waiting := shared.waiting():
            list(pool.map(work, (first, second), (shared, shared), (waiting[::2], waiting[1::2])))
    assert len(content(alone)) == 5
    assert content(shared) == content(alone)


@pytest.mark.slow
@given(st.randoms(use_true_random=False), st.integers(1, 4))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_law_33_the_runs_of_a_study_do_not_depend_on_which_worker_is_done_first(
    draw: random.Random, workers: int
) -> None:
    """Law 33: `workers` take what waits, any of them ends next, and the schedule is asked again at once: the study ends
    with the runs that one worker makes in order."""
    data = simulated_study.SFT
    asked = simulated_study.study(data)
    lab = simulated_study.bowl(asked, data, shift=draw.choice([-1.2, 0.0, 1.7]))
    in_order = simulated_study.drive(asked, data, lab)
    done: list[RunRecord] = []
    busy: list[RunSpec] = []
    while waiting := simulated_study.next_runs(asked, data, done):
        free = [spec for spec in waiting if spec not in busy]
        busy += free[: workers - len(busy)]
        done.append(lab(busy.pop(draw.randrange(len(busy)))))
    assert simulated_study.ids(done) == simulated_study.ids(in_order)
    assert len(done) == len(in_order)
