"""A disk that really refuses: no right to read, no right to write. The system says no here, not the test."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from chaos_study import digest, finish, outcome, write_report_alone

from lab_fixtures import _one_thread, _quiet
from tunewise.spec import StudySpec

__all__ = ["_one_thread", "_quiet"]
HERE = Path(__file__).parent
ALONE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]  # with its own disks
SIZES = range(200, 340, 20)  # kilobytes: from too few to begin with to enough, full at some place in between
# the superuser may read and write whatever its mode says, unless it gives that up
AS_ANY_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
pytestmark = pytest.mark.skipif(
    bool(AS_ANY_USER) and shutil.which(AS_ANY_USER[0]) is None,
    reason="the superuser may do everything, and there is no setpriv to give that up",
)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that the modes of files hold for."""
    command = [*AS_ANY_USER, sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def refused(*arguments: str) -> str:
    """The one line that the command ends with; asserts exit status 2."""
    ended = python("-m", "tunewise", *arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    (line,) = ended.stderr.splitlines()
    return line


@contextmanager
def unwritable(*paths: Path) -> Iterator[None]:
    """Nobody has the right to write these."""
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def written(study: StudySpec, place: Path) -> str:
    """The study file."""
    path = place / "study.yaml"
    path.write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    return str(path)


def test_the_report_of_what_may_not_be_read_is_the_same_or_names_it(folder: Path) -> None:
    ended = python(str(HERE / "refused.py"), str(folder))
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout)
    assert len(found) > 50
    told = {path: instead for path, instead in found.items() if instead is not None}
    assert {str(folder), str(folder / "study.yaml"), str(folder / "runs"), str(folder / "data")} <= told.keys()
    records = sorted(folder.glob("runs/*/record.json"))
    assert {str(path) for record in records for path in (record, record.parent)} <= told.keys(), "no run is passed over"
    for path, instead in told.items():
        assert instead.startswith(f"cannot read {path}"), f"{path}: {instead[:300]}"
        assert "Permission denied. Fix this" in instead


def test_a_folder_that_may_not_be_written_is_named_and_what_is_finished_stays(
    study: StudySpec, folder: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    file, before = written(study, tmp_path), digest(folder)
    with unwritable(folder, *folder.rglob("*")):
        line = refused("compare", file, "--out", str(folder))
        assert (
            line
            == f"error: cannot write the study folder {folder}: Permission denied. Choose another folder with --out."
        )
        line = refused("report", str(folder))
        assert line.startswith(f"error: cannot write {folder / '.report-lock'}: Permission denied. Fix this")
    assert digest(folder) == before
    finish(study, folder, write_report_alone)
    assert outcome(folder) == whole


def test_a_place_without_the_right_to_make_a_study_folder_is_named_at_once(study: StudySpec, tmp_path: Path) -> None:
    file, place = written(study, tmp_path), tmp_path / "place"
    place.mkdir()
    with unwritable(place):
        line = refused("compare", file, "--out", str(place / "new"))
    assert (
        line
        == f"error: cannot write the study folder {place / 'new'}: Permission denied. Choose another folder with --out."
    )
    assert list(place.iterdir()) == []


def may_mount() -> bool:
    """True if this process may give a disk to one of its own."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    tried = [*ALONE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_disk_that_is_full_is_said_so_and_with_room_the_study_ends_as_on_any_other(tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("no right to mount a small disk")
    command = [*ALONE, sys.executable, str(HERE / "full_disk.py"), str(tmp_path), *map(str, SIZES)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout)
    assert [one["is_kept"] and one["is_same"] for one in found] == [True] * len(SIZES)
    for kilobytes, one in zip(SIZES, found, strict=True):
        place = tmp_path / f"{kilobytes}" / "study"
        full = r"(Error while serializing: I/O error: )?No space left on device( \(os error 28\))?"
        told = rf"cannot write {place}\S*: {full}\. Fix|not enough disk space for {place}: "
        assert one["said"] is None or re.match(told, one["said"]), one["said"]
    assert any("No space left on device" in (one["said"] or "") for one in found)


@pytest.mark.slow
def test_data_that_may_not_be_read_is_named(study: StudySpec, tmp_path: Path) -> None:
    file = written(study, tmp_path)
    assert study.data.test is not None
    path = Path(study.data.test)
    path.chmod(0)
    try:
        line = refused("check", file, "--out", str(tmp_path / "new"))
    finally:
        path.chmod(0o644)
    assert line.startswith(f"error: cannot read {path}: Permission denied. Fix this")


@pytest.mark.slow
def test_a_run_that_may_not_be_written_is_named_and_the_same_command_continues(
    study: StudySpec, folder: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    copy = tmp_path / "study"
    shutil.copytree(folder, copy)
    lost = next(path.parent for path in sorted(copy.glob("runs/*/record.json")) if "lora" in path.read_text())
    shutil.rmtree(lost)
    kept = {path: digest(path.parent) for path in copy.glob("runs/*/record.json")}
    with unwritable(copy / "runs"):
        line = refused("compare", written(study, tmp_path), "--out", str(copy))
    assert line.startswith(f"error: cannot write the study folder {copy}: Permission denied.")
    assert {path: digest(path.parent) for path in copy.glob("runs/*/record.json")} == kept
    finish(study, copy, write_report_alone)
    found = outcome(copy)
    assert [name for name in whole if found[name] != whole[name]] == [], "refused before anything was planned"
