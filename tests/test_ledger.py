"""Laws of the study folder: a run is done when its record is there, and what it wrote stays as it was."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import make_data_summary, make_run_spec
from tunewise.errors import StudyError
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import RunSpec, StudySpec
from tunewise.storage.disk import write_atomically
from tunewise.storage.files import file_hash, files_below
from tunewise.storage.ledger import Ledger, find_studies
from tunewise.storage.seal import SEAL, seal_data, sealed, text_hash, unsealed

KEY = "0123456789abcdef"  # of prepared data
STUDY = StudySpec.model_validate(
    {
        "name": "s",
        "data": {"train": "t"},
        "arms": {"full": {"method": "full"}, "l": {"method": "lora", "targets": ["a"]}},
    }
)


def run_spec(seed: int = 1) -> RunSpec:
    return make_run_spec(arm="full", seed=seed, threads=2)


def finish(ledger: Ledger, spec: RunSpec, **files: str) -> Path:
    """A finished run with small files, weights/<name> among them."""
    folder = ledger.begin(spec)
    for name, text in {"scores.parquet": "scores", "steps.jsonl": '{"step": 1}\n', **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    ledger.finish(RunRecord(run_id=spec.run_id, spec=spec, status="done"))
    return folder


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "runs" / "s")
    made.create()
    made.store_study(STUDY)
    return made


# --- the study


def test_the_stored_study_is_read_back_equal(ledger: Ledger) -> None:
    assert Ledger.open(ledger.folder).study() == STUDY
    assert find_studies(ledger.folder.parent) == [ledger.folder]


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="it has no study.yaml"):
        Ledger.open(tmp_path)


def test_a_place_that_cannot_be_written_is_refused_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StudyError, match="cannot write the study folder .* --out"):
        Ledger(tmp_path / "file" / "s").create()


def test_too_little_disk_space_is_refused_with_both_figures(ledger: Ledger) -> None:
    ledger.require_space(1)
    with pytest.raises(StudyError, match=r"not enough disk space .* MiB free, about 1,099,511,627,776 MiB needed"):
        ledger.require_space(2**60)


# --- runs


def test_a_run_has_a_record_only_after_it_finished(ledger: Ledger) -> None:
    spec = run_spec()
    assert ledger.record(spec.run_id) is None
    ledger.begin(spec)
    assert ledger.record(spec.run_id) is None
    assert ledger.records() == []
    finish(ledger, spec)
    record = ledger.record(spec.run_id)
    assert record is not None
    assert record.spec == spec
    assert set(record.files) == {"spec.json", "steps.jsonl", "scores.parquet"}
    assert ledger.steps(spec.run_id) == [{"step": 1}]


def test_a_run_interrupted_while_it_is_recorded_is_not_done(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = run_spec()
    (ledger.begin(spec) / "scores.parquet").write_text("scores", encoding="utf-8")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", lambda self, to: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(StudyError, match="power cut"):
            ledger.finish(RunRecord(run_id=spec.run_id, spec=spec, status="done"))
    assert ledger.records() == []


def test_a_run_that_starts_again_finds_no_leftovers(ledger: Ledger) -> None:
    spec = run_spec()
    finish(ledger, spec, **{"weights/model.safetensors": "w"})
    folder = ledger.begin(spec)
    assert [path.name for path in files_below(folder)] == ["lease.json", "spec.json"]
    assert ledger.record(spec.run_id) is None


def test_a_run_that_can_be_continued_keeps_what_it_needs_for_that_and_nothing_else(ledger: Ledger) -> None:
    spec = run_spec()
    finish(ledger, spec, **{"weights/model.safetensors": "w", "checkpoint/step": "c", "log.txt": "hello"})
    (ledger.run_folder(spec.run_id) / "checkpoint").mkdir()
    folder = ledger.begin(spec)
    kept = {"checkpoint", "log.txt", "steps.jsonl"}
    assert {path.name for path in folder.iterdir()} == {"lease.json", "spec.json", *kept}


def test_a_done_run_keeps_no_checkpoint_and_a_lost_one_does(ledger: Ledger) -> None:
    for status, is_kept in (("done", False), ("diverged", False), ("failed", True)):
        folder = ledger.begin(run_spec())
        (folder / "checkpoint").mkdir(exist_ok=True)
        ledger.finish(RunRecord(run_id=run_spec().run_id, spec=run_spec(), status=status))
        assert (folder / "checkpoint").exists() == is_kept


def test_records_come_in_the_order_of_their_ids_whatever_the_order_of_the_runs(ledger: Ledger) -> None:
    specs = [run_spec(seed) for seed in (5, 3, 9, 1)]
    for spec in specs:
        finish(ledger, spec)
    assert [record.run_id for record in ledger.records()] == sorted(spec.run_id for spec in specs)


@pytest.mark.parametrize("name", ["scores.parquet", "steps.jsonl", "spec.json"])
@pytest.mark.parametrize("damage", ["a changed byte", "a missing file"])
def test_a_file_that_changed_after_the_run_is_refused_by_name(ledger: Ledger, name: str, damage: str) -> None:
    file = finish(ledger, run_spec()) / name
    if damage == "a changed byte":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(StudyError, match=rf"{name} was changed after the run wrote it\. Delete"):
        ledger.record(run_spec().run_id)
    with pytest.raises(StudyError, match=name):
        ledger.records()


@pytest.mark.parametrize("content", [b"{", b'{"schema_version": 99}', b"\xff\xfe", b""])
def test_a_damaged_record_is_refused_by_name(ledger: Ledger, content: bytes) -> None:
    path = finish(ledger, run_spec()) / "record.json"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"record\.json is damaged or of another version\. Delete"):
        ledger.records()


def test_a_record_with_a_status_of_another_version_is_refused_by_name_and_deleting_it_is_enough(ledger: Ledger) -> None:
    kept, old = (finish(ledger, run_spec(seed)) / "record.json" for seed in (1, 2))
    content = unsealed(old.read_text(encoding="utf-8"))
    assert content is not None
    old.write_text(sealed({**content, "status": "does-not-fit"}), encoding="utf-8")  # what out-of-memory was once
    with pytest.raises(StudyError, match=rf"{old} is damaged or of another version\. Delete {old.parent} to run it"):
        ledger.records()
    shutil.rmtree(old.parent)
    assert [record.run_id for record in ledger.records()] == [kept.parent.name]


def test_a_number_that_was_altered_in_a_record_a_study_or_a_summary_is_refused(ledger: Ledger) -> None:
    record = finish(ledger, run_spec()) / "record.json"
    data = ledger.data_folder(KEY) / "data.json"
    data.parent.mkdir(parents=True)
    data.write_text(summary(KEY).model_dump_json(indent=1), encoding="utf-8")
    seal_data(data.parent)
    read: dict[Path, tuple[str, str, Callable[[], object]]] = {
        record: ('"attempts": 1', '"attempts": 2', ledger.records),
        data: ('"hidden_size": 8', '"hidden_size": 9', ledger.data_summary),
        ledger.folder / "study.yaml": ("batch_size: 16", "batch_size: 17", ledger.study),
    }
    for path, (old, new, reading) in read.items():
        reading()
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(StudyError, match=path.name):
            reading()


def test_what_may_change_after_the_run_is_not_refused(ledger: Ledger) -> None:
    folder = finish(ledger, run_spec(), **{"weights/model.safetensors": "w", "log.txt": "hello"})
    (folder / "log.txt").write_text("more", encoding="utf-8")
    ledger.drop_weights(run_spec().run_id)
    record = ledger.record(run_spec().run_id)
    assert record is not None
    assert list(record.weights) == ["model.safetensors"]
    assert not (folder / "weights").exists()


# --- deliverables


def weights_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in files_below(folder)}


@pytest.mark.parametrize("keep_in_run", [True, False])
def test_the_deliverable_is_the_weights_of_the_run_and_replaces_an_older_one(ledger: Ledger, keep_in_run: bool) -> None:
    old, new = run_spec(1), run_spec(2)
    finish(ledger, old, **{"weights/model.safetensors": "old", "weights/extra.json": "old"})
    finish(ledger, new, **{"weights/model.safetensors": "new"})
    ledger.promote("full", old.run_id, keep_in_run=keep_in_run)
    ledger.promote("full", new.run_id, keep_in_run=keep_in_run)
    assert weights_of(ledger.best_folder("full")) == {"model.safetensors": "new"}
    assert (ledger.run_folder(new.run_id) / "weights").exists() == keep_in_run


def test_promoting_a_run_whose_weights_were_moved_or_dropped_keeps_the_deliverable(ledger: Ledger) -> None:
    spec = run_spec()
    finish(ledger, spec, **{"weights/model.safetensors": "w"})
    for _ in range(2):
        ledger.promote("full", spec.run_id, keep_in_run=False)
        assert weights_of(ledger.best_folder("full")) == {"model.safetensors": "w"}


@pytest.mark.parametrize("keep_in_run", [True, False])
def test_the_run_that_wrote_a_deliverable_is_found_with_one_look_at_its_files(
    ledger: Ledger, keep_in_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [run_spec(seed) for seed in range(4)]
    for spec in specs:
        finish(ledger, spec, **{"weights/model.safetensors": f"of {spec.seed}", "weights/README.md": "a card"})
    ledger.promote("full", specs[2].run_id, keep_in_run=keep_in_run)
    best, records = ledger.best_folder("full"), ledger.records()
    (best / "README.md").write_text("another card", encoding="utf-8")
    (best / "notes.txt").write_text("of the user", encoding="utf-8")
    looked: list[Path] = []
    monkeypatch.setattr("tunewise.storage.ledger.file_hash", lambda path: looked.append(path) or file_hash(path))
    found = ledger.writer("full", records)
    assert found is not None
    assert found.run_id == specs[2].run_id
    assert sorted(path.name for path in looked) == ["README.md", "model.safetensors", "notes.txt"]
    (best / "model.safetensors").write_text("of 9", encoding="utf-8")
    assert ledger.writer("full", records) is None, "what lies in the run's own folder is another matter"
    assert ledger.writer("full", []) is None


def test_dropping_weights_twice_or_of_an_unknown_run_does_nothing(ledger: Ledger) -> None:
    ledger.drop_weights("0" * 16)
    finish(ledger, run_spec())
    ledger.drop_weights(run_spec().run_id)
    assert len(ledger.records()) == 1


# --- prepared data


def test_a_study_without_prepared_data_says_what_to_do(ledger: Ledger) -> None:
    with pytest.raises(StudyError, match="holds no prepared data yet"):
        ledger.data_summary()


def test_the_summary_in_use_is_the_newest(ledger: Ledger) -> None:
    newest, *older = (letter * 16 for letter in "abc")
    for age, key in enumerate((newest, *older)):
        path = ledger.data_folder(key) / "data.json"
        path.parent.mkdir(parents=True)
        path.write_text(summary(key).model_dump_json(), encoding="utf-8")
        seal_data(path.parent)
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    assert ledger.data_summary().key == newest


def summary(key: str) -> DataSummary:
    return make_data_summary(key=key, hidden_size=8)


def test_a_bomb_under_its_own_seal_is_refused(tmp_path: Path) -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 9))
    text = f"l0: &l0 [x, x]\n{levels}"
    ledger = Ledger(tmp_path)
    write_atomically(tmp_path / "study.yaml", f"{text}{SEAL}{text_hash(text)}\n")
    with pytest.raises(StudyError, match="aliases"):
        ledger.study()


@pytest.mark.parametrize(
    "left",
    [
        "runs/writable.0123456789abcdef.tmp",
        "data/hashes.json.0123456789abcdef.tmp",
        "data/0123456789abcdef.0123456789abcdef.tmp/train.parquet",
        "runs/0123456789abcdef.0123456789abcdef.tmp/record.json",
    ],
)
def test_a_folder_in_which_a_command_died_at_once_is_continued(tmp_path: Path, left: str) -> None:
    """A temporary file has an unpredictable name; the folder is nevertheless one that a study began."""
    for name in (".lock", "runs/x", "data/x", left):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("runs/x", "data/x"):
        (tmp_path / name).unlink()
    Ledger(tmp_path).create()
    stranger = tmp_path / "runs" / "thesis.tex.0123456789abcdef.tmp"
    stranger.touch()
    with pytest.raises(StudyError, match="does not hold a study"):
        Ledger(tmp_path).create()
