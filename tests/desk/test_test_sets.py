"""Each study on a test set spends error: the ledger counts them, the report says so, and a declaration divides it."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from desk.conftest import data_summary, write_study
from desk.test_declarations import Compare, compare
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.views.view import Report
from tunewise.storage import test_sets as ledger
from tunewise.storage.test_sets import Use

__all__ = ["compare"]

TEST_SET = "5e7" + "0" * 61
DATA = data_summary(test_set=TEST_SET)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "tunewise" / "test-sets.jsonl"


def use(number: int, **changes: Any) -> Use:
    content = {"test_set": TEST_SET, "study": f"{number:016x}", "name": "other", "look": 5, "verdicts": 2}
    return Use.model_validate({**content, "date": "2026-11-30", **changes})


def ids(report: Report) -> set[str]:
    return {finding.id for finding in report.warnings}


def sentence(report: Report) -> str:
    return next(finding.sentence for finding in report.warnings if finding.id == "test-set-reused")


def test_a_study_is_recorded_once_however_often_it_is_resumed_and_does_not_count_itself(
    compare: Compare, home: Path
) -> None:
    compare(data=DATA)
    report = build_report(compare(data=DATA))
    (line,) = home.read_text().strip().splitlines()
    (found,) = ledger.uses_of(TEST_SET)
    assert json.loads(line) == json.loads(found.model_dump_json())
    assert (found.look, found.verdicts, found.name) == (3, 2, "docstrings")
    assert report.test_set is not None
    assert (report.test_set.other_studies, report.test_set.is_recorded) == (0, True)
    assert not ids(report) & {"test-set-reused", "test-set-not-recorded"}


def test_every_other_study_counts_once_with_what_together_they_may_err(compare: Compare) -> None:
    ledger.record([use(1), use(1, look=10, verdicts=1), use(2), use(3, test_set="0" * 64)])
    report = build_report(compare(data=DATA, looks=[3, 4]))
    assert report.test_set is not None
    assert (report.test_set.other_studies, report.test_set.other_verdicts) == (2, 5)
    # 1 - (1 - 0.0275)^3 = 0.08
    assert "by 2 other studies" in sentence(report)
    assert "an error of about 0.028, 3 studies together have one of about 0.08" in sentence(report)


def test_the_same_question_with_another_seed_or_margin_is_another_study(compare: Compare, tmp_path: Path) -> None:
    compare(data=DATA)
    for changes in ({"seed": 1}, {"margin": "0.5"}, {"train": {"epochs": 9}}):
        found = build_report(write_study(tmp_path / f"{changes}", changes, {"test_set": TEST_SET})).test_set
        assert found is not None
        assert (found.other_studies, found.is_recorded) == (1, False)
    same = build_report(write_study(tmp_path / "moved", {"name": "renamed"}, {"test_set": TEST_SET})).test_set
    assert same is not None
    assert (same.other_studies, same.is_recorded) == (0, True)


def test_a_declared_number_of_studies_divides_the_error_of_every_word(tmp_path: Path) -> None:
    alone = build_report(write_study(tmp_path / "one"))
    ledger.record([use(1), use(2)])
    shared = build_report(write_study(tmp_path / "five", {"studies_per_test_set": 5}, {"test_set": TEST_SET}))
    for one, five in zip(alone.verdicts, shared.verdicts, strict=True):
        if one.num_compared == 2 and one.outcome == five.outcome:
            assert 1 - five.confidence == pytest.approx((1 - one.confidence) / 5)
            assert five.low is not None
            assert one.low is not None
            assert five.low < one.low
    finding = next(finding for finding in shared.warnings if finding.id == "test-set-reused")
    assert finding.severity == "note"
    assert "about 0.005, 3 studies" in finding.sentence


def test_the_declared_number_cannot_change_after_the_first_test_score(compare: Compare) -> None:
    compare()
    assert build_report(compare(studies_per_test_set=2)).declarations_changed == ("studies_per_test_set",)


def test_nothing_is_counted_where_the_study_says_so(compare: Compare, home: Path) -> None:
    report = build_report(compare(data=DATA, machine={"test_set_ledger": False}))
    assert report.test_set is None
    assert not home.exists()


@pytest.mark.parametrize("in_the_way", ["a file as its folder", "a link", "a pipe", "a folder"])
def test_a_ledger_that_cannot_be_written_is_a_note_and_never_a_failure(
    compare: Compare, home: Path, tmp_path: Path, in_the_way: str
) -> None:
    if in_the_way == "a file as its folder":
        home.parent.parent.mkdir()
        home.parent.write_text("")
    else:
        home.parent.mkdir(parents=True)
        {
            "a link": lambda: home.symlink_to(tmp_path / "elsewhere"),
            "a pipe": lambda: os.mkfifo(home),
            "a folder": home.mkdir,
        }[in_the_way]()
    report = build_report(compare(data=DATA))
    assert report.verdicts
    assert "test-set-not-recorded" in ids(report)
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_line_costs_itself_alone(home: Path) -> None:
    ledger.record([use(1)])
    with home.open("ab") as file:  # cut short by a full disk, and lines of nobody
        file.write(b'\xff\x00\n[]\n{"test_set": "' + TEST_SET.encode() + b'"}\n')
        file.write(use(2).model_dump_json().encode()[:-20])
    ledger.record([use(3)])
    assert [found.study for found in ledger.uses_of(TEST_SET)] == [f"{1:016x}", f"{3:016x}"]


def test_writers_at_the_same_time_lose_no_line(home: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: ledger.record([use(number)]), range(200)))
    assert len(ledger.uses_of(TEST_SET)) == 200
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("data_home", "expected"),
    [
        ("/srv/data", "/srv/data/tunewise/test-sets.jsonl"),
        ("relative", "/home/ada/.local/share/tunewise/test-sets.jsonl"),  # as the specification asks
        ("", "/home/ada/.local/share/tunewise/test-sets.jsonl"),
    ],
)
def test_the_ledger_is_where_the_xdg_specification_says(
    monkeypatch: pytest.MonkeyPatch, data_home: str, expected: str
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_DATA_HOME", data_home)
    assert str(ledger.ledger_path()) == expected
