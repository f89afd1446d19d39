"""Faults of disk, clock and numbers, injected into a tiny study: each is a status or a message, and nothing is lost."""

import datetime
import errno
import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chaos_study import finish, outcome, write_report_alone

from lab_fixtures import _one_thread, _quiet
from tunewise.errors import StudyError
from tunewise.lab.prepare import prepare
from tunewise.lab.run import record, story
from tunewise.spec import StudySpec
from tunewise.storage import disk
from tunewise.storage.ledger import Ledger

__all__ = ["_one_thread", "_quiet"]
TESTS = Path(__file__).parents[1]
NUM_WRITES = 60  # of the study, about


@contextmanager
def refusing(number: int, place: int) -> Iterator[None]:
    """The disk refuses from its `place`-th write on, as a full one or one without permission does."""
    left, fill = iter(range(place)), disk.fill

    def refused(path: Path, write: Any) -> None:
        if next(left, None) is None:
            path.write_bytes(b"ha")
            raise OSError(number, os.strerror(number), str(path))
        fill(path, write)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "fill", refused)
        yield


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, pytest.param(errno.EROFS, marks=SLOW), pytest.param(errno.EACCES, marks=SLOW)]
)
def test_a_disk_that_refuses_is_said_so_and_the_same_command_continues(
    number: int, study: StudySpec, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    place = random.Random(number).randrange(NUM_WRITES)
    said = rf"cannot write {re.escape(str(folder))}.*: {os.strerror(number)}\. Fix this and run the same command again"
    with refusing(number, place), pytest.raises(StudyError, match=said):
        finish(study, folder, write_report_alone)
    finish(study, folder, write_report_alone)
    assert outcome(folder) == whole


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_is_said_so_before_anything_else(
    number: int, study: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*of: Any, **more: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(StudyError, match=rf"cannot write the study folder .*: {os.strerror(number)}\. Choose another"):
        finish(study, tmp_path / "study", write_report_alone)


def test_a_clock_that_jumps_back_and_forth_changes_nothing(
    study: StudySpec, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.now(tz) + datetime.timedelta(days=draw.uniform(-900, 900))

    for module in (story, record):
        monkeypatch.setattr(module, "datetime", Jumping)
    finish(study, tmp_path / "study", write_report_alone)
    assert outcome(tmp_path / "study") == whole


def test_the_data_that_was_prepared_last_is_in_use_also_where_the_clock_was_set_back(
    study: StudySpec, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    ledger.create()
    other = prepare(study.replace(data={**study.data.model_dump(), "separator": " "}), ledger.folder / "data")
    future = 4_000_000_000
    os.utime(ledger.data_folder(other) / "data.json", (future, future))
    for _ in range(2):  # prepared, then found again
        key = prepare(study, ledger.folder / "data")
        assert ledger.data_summary().key == key != other
        os.utime(ledger.data_folder(other) / "data.json", (future + 10, future + 10))


def test_job_files_of_a_command_that_died_are_removed_at_the_end(study: StudySpec, tmp_path: Path) -> None:
    jobs = tmp_path / "study" / "jobs"
    finish(study, jobs.parent)
    jobs.mkdir(exist_ok=True)
    for name in ("probe-0123456789abcdef", "0123456789abcdef.json", "0123456789abcdef.events"):
        (jobs / name).write_text("left", encoding="utf-8")
    finish(study, jobs.parent)
    assert not list(jobs.iterdir())


def test_a_loss_that_explodes_is_a_diverged_run_and_the_study_goes_on(study: StudySpec, tmp_path: Path) -> None:
    arms = {**study.model_dump()["arms"], "wild": {"method": "lora", "rank": 3, "rates": [1e30]}}
    finish(study.replace(arms=arms), tmp_path / "study", write_report_alone)
    ledger = Ledger(tmp_path / "study")
    by_arm = {(r.spec.arm, r.status) for r in ledger.records()}
    assert by_arm == {("base", "done"), ("full", "done"), ("lora", "done"), ("wild", "diverged")}
    report = (ledger.folder / "report.json").read_text(encoding="utf-8")
    assert "trials-diverged" in report


def test_every_fault_of_the_table_has_the_test_that_it_names() -> None:
    table = (TESTS.parent / "docs" / "appendices" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", table)
    assert len(named) > 20
    for file, name in named:
        assert f"\ndef {name}(" in (TESTS / file).read_text(encoding="utf-8"), f"{file}::{name}"
