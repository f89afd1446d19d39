"""What a plan expects a study's runs to do is what they do: steps, and every scoring of every split, counted there."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from laws.small_studies import SmallStudy, executor_here, small_study
from tunewise.commands.running import next_runs
from tunewise.desk.planning.expected import Length, Runs, expected_runs
from tunewise.desk.protocol import schedule
from tunewise.desk.study.state import StudyState
from tunewise.executors.attempts import Attempts
from tunewise.lab.data.batching import Example, read_examples
from tunewise.lab.run import context as lab_run

FolderOf = Callable[[str], Path]
# (arm, role, steps) -> runs; and the same with a split and a precision -> scorings in all of them
Work = tuple[Counter[tuple[str, str, int]], Counter[tuple[str, str, str, str]]]
ARMS = {
    "full": {"method": "full", "extract": {"all-linear": [1, 2], "qkv": [1]}},
    "lora": {"method": "lora", "rank": "auto", "max_rank": 4},
}
QUICK = {"looks": [1], "machine": {"device": "cpu", "precision": "bf16", "threads": 1}}


def planned(runs: Iterable[Runs]) -> Work:
    trained: Counter[tuple[str, str, int]] = Counter()
    scored: Counter[tuple[str, str, str, str]] = Counter()
    for of in runs:
        trained[of.arm, of.role, of.num_steps] += of.num_runs
        scored[of.arm, of.role, "valid", "bf16"] += of.num_runs * of.valid
        scored[of.arm, of.role, "general", "bf16"] += of.num_runs * of.general
        for split in of.in_fp32:
            scored[of.arm, of.role, split, "fp32"] += of.num_runs
    return trained, +scored


def done(study: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Run the whole study and count."""
    splits = {
        tuple(example.example for example in read_examples(path)): path.stem
        for path in study.data_folder.glob("*.parquet")
    }
    now: list[tuple[str, str]] = []
    trained: Counter[tuple[str, str, int]] = Counter()
    scored: Counter[tuple[str, str, str, str]] = Counter()
    score = lab_run.score

    def noted(model: Any, examples: Sequence[Example], batching: Any, compute: Any) -> Any:
        scored[*now[-1], splits[tuple(example.example for example in examples)], compute.precision] += 1
        return score(model, examples, batching, compute)

    monkeypatch.setattr(lab_run, "score", noted)
    ledger = study.ledger
    lab = Attempts(executor_here(), ledger, study.study.machine)
    while True:
        state = StudyState.of(study.study, study.data, ledger.records(), ledger)
        waiting = next_runs(state)
        if not waiting:
            return trained, scored
        for spec in waiting:
            now.append((spec.arm, spec.role))
            record = lab.run(spec, study.data_folder)
            assert record.status == "done", record.message
            trained[spec.arm, spec.role, record.num_steps] += 1


def compare(study: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    length = Length(schedule.num_steps(study.study, study.data), has_general=study.data.inputs.general is not None)
    least, most = (planned(expected_runs(study.study, length, extent)) for extent in ("least", "cap"))
    assert least == most, "each arm has its rates, so that the losses of so short runs decide nothing"
    assert done(study, monkeypatch) == least


def with_rates(arms: dict[str, Any]) -> dict[str, Any]:
    return {name: {**arm, "rates": [1e-3]} for name, arm in arms.items()}


def test_every_step_and_scoring_of_trials_truncations_extractions_and_forgetting_is_expected(
    tmp_path: Path, folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 steps with two evaluations, after 2 and 3; two points of the curve, at 0, 2 and 3."""
    train = {"max_steps": 3, "batch_size": 4, "evaluations": 2}
    forgetting = {"tokens": 40, "points": 2}
    arms = with_rates(ARMS)
    compare(
        small_study(tmp_path, folder_of("gpt2"), "sft", arms, train=train, forgetting=forgetting, **QUICK), monkeypatch
    )


def test_every_step_and_scoring_of_a_head_arm_is_expected(
    tmp_path: Path, folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, tuning = {"max_steps": 2, "batch_size": 4, "evaluations": 4}, {"rates": 1, "cap": 1}
    arms = with_rates({"lora": {"method": "lora", "rank": 2}})
    compare(
        small_study(tmp_path, folder_of("bert"), "classify", arms, train=train, tuning=tuning, **QUICK), monkeypatch
    )


@pytest.mark.slow
def test_every_step_and_scoring_of_short_trials_is_expected(
    tmp_path: Path, folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"max_steps": 40, "batch_size": 2, "evaluations": 8}
    tuning = {"search": "short", "rates": 7, "cap": 3}
    arms = {"lora": {"method": "lora", "rank": 1, "targets": "qkv"}}
    changes = {"train": train, "tuning": tuning, "forgetting": {"tokens": 20, "points": 0}, **QUICK}
    compare(small_study(tmp_path, folder_of("gpt2"), "sft", arms, **changes), monkeypatch)
