"""Law 47: identity holds while a study runs; what would be made again is told before, and asked for."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_studies import FolderOf, executor_here, small_study

from desk.conftest import ARMS, data_summary, study_spec
from desk.test_declarations import compare as compare_with_a_seed
from tunewise.commands import compare as driver
from tunewise.desk.protocol import resolve
from tunewise.desk.protocol.drafts import Drafts
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.study.stale import find_stale, stale_sentence
from tunewise.errors import StudyError
from tunewise.executors.attempts import Attempts
from tunewise.inputs import input_files
from tunewise.inputs.input_files import InputFiles
from tunewise.records import RunRecord, events
from tunewise.records.events import Event
from tunewise.spec import Inputs, RunSpec, StudySpec
from tunewise.storage.ledger import DECLARATIONS, Ledger

compare = compare_with_a_seed  # the driver with a lab that answers from a seed
PROTOCOL = {
    "train": {"max_steps": 2, "batch_size": 4, "evaluations": 1},
    "looks": [2],
    "tuning": {"rates": 1, "cap": 1},
}


@pytest.fixture
def asked(tmp_path: Path, folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch) -> StudySpec:
    """A study of two arms whose base lies in `tmp_path`, its jobs done in this process, a report not written."""
    shutil.copytree(folder_of("llama"), tmp_path / "model")
    monkeypatch.setattr(driver, "LocalExecutor", executor_here)
    monkeypatch.setattr("tunewise.commands.report.write_report", lambda ledger: None)
    arms = {"full": {"method": "full", "learning_rate": 1e-3}}
    return small_study(tmp_path / "inputs", tmp_path / "model", "sft", arms, **PROTOCOL).study


def replace_weights(folder: Path) -> None:
    """Other weights of the same size, and times as if nothing had happened."""
    path = folder / "model.safetensors"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-40:] = bytes(40)
    new = path.with_name("new")
    new.write_bytes(content)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)


def test_law_47_a_base_that_is_replaced_between_two_runs_stops_the_study(
    asked: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 47: one message before the next run; put back, the same command makes what is missing and no run twice."""
    shutil.copytree(tmp_path / "model", tmp_path / "kept")
    begun: list[str] = []
    ran: list[str] = []
    true_run = Attempts.run

    def run(self: Attempts, spec: RunSpec, *of: Any) -> RunRecord:
        ran.append(spec.run_id)
        return true_run(self, spec, *of)

    monkeypatch.setattr(Attempts, "run", run)

    def swap(event: Event) -> None:
        if isinstance(event, events.Begin):
            begun.append(event.spec.run_id)
            if len(begun) == 3:
                replace_weights(tmp_path / "model")

    with pytest.raises(StudyError, match=r"model\.safetensors changed while the study was running.*--again"):
        driver.compare(asked, tmp_path / "study", swap)
    ledger = Ledger(tmp_path / "study")
    assert {record.run_id for record in ledger.records()} == set(begun[:2]) == set(ran)
    (tmp_path / "model" / "model.safetensors").unlink()
    shutil.copy2(tmp_path / "kept" / "model.safetensors", tmp_path / "model")
    continued: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, events.Begin):
            continued.append(event.spec.run_id)

    driver.compare(asked, tmp_path / "study", note)
    assert not {*continued} & {*begun[:2]}
    assert len(ledger.records()) == 4


def test_law_47_a_run_during_which_the_base_was_replaced_is_not_kept(
    asked: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 47: which of the two it read is not known."""
    true_run = Attempts.run

    def run(self: Attempts, *of: Any) -> RunRecord:
        record = true_run(self, *of)
        replace_weights(tmp_path / "model")
        return record

    monkeypatch.setattr(Attempts, "run", run)
    with pytest.raises(StudyError, match="changed while the study was running"):
        driver.compare(asked, tmp_path / "study")
    assert Ledger(tmp_path / "study").records() == []


@pytest.mark.parametrize("most_hashed", [0, 2**20])
def test_law_47_every_file_that_a_study_names_is_watched(
    most_hashed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 47: model, tokenizer, adapters of others, data, template and general text; a small file that is only touched
    is the same."""
    monkeypatch.setattr(input_files, "MOST_HASHED", most_hashed)
    names = {
        "runs": ["model/config.json", "model/model.safetensors", "model/tokenizer.json", "theirs/adapter_config.json"],
        "preparation": ["train.jsonl", "test/part-1.parquet", "chat.jinja", "general.txt"],
    }
    every = [tmp_path / name for of in names.values() for name in of]
    for path in every:
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.name, encoding="utf-8")
    places = {"train": "train.jsonl", "test": "test", "chat_template": "chat.jinja"}
    study = study_spec(
        model=str(tmp_path / "model"),
        data={key: str(tmp_path / name) for key, name in places.items()},
        arms={"full": {"method": "full"}, "theirs": {"method": "existing", "path": str(tmp_path / "theirs")}},
        forgetting={"text": str(tmp_path / "general.txt")},
    )
    files = InputFiles.of(study, tmp_path / "study")
    assert set(files.seen) == {*every}
    files.require_same()
    for reader, of in names.items():
        for path in (tmp_path / name for name in of):
            content = path.read_text(encoding="utf-8")
            path.write_text(content.upper(), encoding="utf-8")
            with pytest.raises(StudyError, match=path.name):
                files.require_same()
            with pytest.raises(StudyError, match=path.name):
                files.require_same(reader)  # type: ignore[arg-type]
            path.write_text(content, encoding="utf-8")
            if most_hashed:
                files.require_same()
            else:
                files = InputFiles.of(study, tmp_path / "study")
    every[0].unlink()
    with pytest.raises(StudyError, match=every[0].name):
        files.require_same()


CHANGES: dict[str, tuple[dict[str, Any], bool]] = {  # of today -> is it offered to take the runs as they are
    "threads 2 (now 4)": ({"threads": 4}, True),
    "base": ({"base": "o" * 64}, True),
    "peft 0.1 (now 9.9)": ({"versions": {"peft": "9.9"}}, True),
    "data": ({"data": "o" * 64}, False),
    "tokenizer": ({"tokenizer": "o" * 64}, False),
    "device cpu (now mps)": ({"device": "mps"}, False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_law_47_finished_runs_are_not_begun_anew_without_being_asked(
    change: str, compare: Callable[..., Ledger]
) -> None:
    """Law 47: the number of runs, their time, the reason and what there is to choose are told before the first run."""
    changes, is_acceptable = CHANGES[change]
    of_inputs = {name: value for name, value in changes.items() if name in Inputs.model_fields}
    then = data_summary(threads=2)
    then = then.replace(inputs=then.inputs.replace(versions={"peft": "0.1"}))
    ledger = compare(data=then)
    finished = {record.run_id for record in ledger.records()}
    others = {name: value for name, value in changes.items() if name not in of_inputs}
    now = then.replace(inputs=then.inputs.replace(**of_inputs), **others)
    begun: list[str] = []
    with pytest.raises(StudyError) as refused:
        compare(lambda spec, of: begun.append(spec.run_id), data=now)
    assert begun == []
    said = str(refused.value)
    assert f"{len(finished)} finished runs" in said
    assert change in said
    assert "--again" in said
    assert ("--accept-stale" in said) == is_acceptable
    assert ("--set machine.threads=2" in said) == change.startswith("threads")
    if is_acceptable:
        compare(lambda spec, of: begun.append(spec.run_id), data=now, accept_stale=True)
        assert begun == []
    compare(lambda spec, of: begun.append(spec.run_id), data=now, again=True)
    assert begun
    begun.clear()
    compare(lambda spec, of: begun.append(spec.run_id), data=now)  # they are there now, and nothing is asked
    assert begun == []


def test_law_47_who_changes_the_study_is_not_asked(compare: Callable[..., Ledger]) -> None:
    """Law 47: other settings ask for other runs; and lost runs were not finished."""
    compare()
    begun: list[str] = []
    compare(lambda spec, of: begun.append(spec.run_id), seed=7)
    assert begun
    data = data_summary()
    study = resolve.resolve(study_spec(), data)
    spec = Drafts(study, data).bases()[0]
    lost = RunRecord(run_id=spec.run_id, spec=spec.replace(threads=3), status="failed")
    assert find_stale(study, data, [lost]) is None
    stale = find_stale(study, data, [lost.replace(run_id="0" * 16, status="done")])
    assert stale is not None
    assert "1 finished run " in stale_sentence(stale, "2 h")


def test_law_47_declarations_that_are_deleted_are_missed(compare: Callable[..., Ledger]) -> None:
    """Law 47: after the first test score nothing new can be declared in their place."""
    ledger = compare()
    (ledger.folder / DECLARATIONS).unlink()
    for changes in ({}, {"margin": "0.5"}):
        with pytest.raises(StudyError, match=rf"{DECLARATIONS} is missing"):
            compare(**changes)
    assert ledger.declared() is None
    report = build_report(ledger)
    assert report.headline == "Exploratory, no verdict: declarations.json is gone after the first test score."
    assert {verdict.outcome for verdict in report.verdicts} == {"undecided"}
    assert len(ARMS) > 1
