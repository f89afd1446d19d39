"""Laws of writing: a file holds all of the new or all of the old, whatever happens in between."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunewise.errors import StudyError
from tunewise.storage import disk
from tunewise.storage.files import file_hash, files_below, is_whole

LITTER = re.compile(r"\.[0-9a-f]{16}\.tmp$")
OPERATIONS = ("fill", "sync", "rename")


def breaking(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """`name` does half of its work and breaks."""

    def broken(path: Path, *more: Any) -> None:
        if name == "fill":
            path.write_bytes(b"ha")
        raise error

    monkeypatch.setattr(disk, name, broken)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refused_write_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    path = tmp_path / "record.json"
    disk.write_atomically(path, "old")
    with monkeypatch.context() as broken:
        breaking(broken, operation, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(StudyError, match=r"cannot write .*record\.json: No space left on device\. .* again"):
            disk.write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
    disk.write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "new"


def test_the_content_is_on_the_disk_before_it_takes_the_name_and_then_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, str]] = []

    def noted(name: str) -> Callable[..., Any]:
        operation = getattr(disk, name)
        return lambda path, *more: (order.append((name, LITTER.sub(".tmp", path.name))), operation(path, *more))[1]

    for name in OPERATIONS:
        monkeypatch.setattr(disk, name, noted(name))
    disk.write_atomically(tmp_path / "x", "text")
    assert order == [("fill", "x.tmp"), ("sync", "x.tmp"), ("rename", "x.tmp"), ("sync", tmp_path.name)]


def test_text_that_is_no_unicode_touches_nothing(tmp_path: Path) -> None:
    disk.write_atomically(tmp_path / "x", "old")
    with pytest.raises(UnicodeEncodeError):
        disk.write_atomically(tmp_path / "x", "\ud800")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "old"


def test_a_hashed_file_is_named_by_what_it_holds(tmp_path: Path) -> None:
    path = disk.write_hashed(tmp_path / "new", "some", ".bin", lambda take: (take(b"con"), take(memoryview(b"tent"))))
    assert path.read_bytes() == b"content"
    assert path.name == f"some-{file_hash(path)}.bin"
    assert is_whole(path)
    path.write_bytes(b"contend")
    assert not is_whole(path)
    path.unlink()
    assert not is_whole(path)


def test_a_disk_that_gives_back_something_else_gives_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = disk.fill

    def lying(path: Path, write: Callable[[Path], object]) -> None:
        fill(path, write)
        path.write_bytes(b"contend")

    monkeypatch.setattr(disk, "fill", lying)
    with pytest.raises(StudyError, match="returned other data"):
        disk.write_hashed(tmp_path, "some", ".bin", lambda take: take(b"content"))
    assert list(tmp_path.iterdir()) == []


def test_no_half_of_a_deleted_folder_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"

    def make() -> None:
        folder.mkdir()
        (folder / "a").write_text("a", encoding="utf-8")

    make()
    with monkeypatch.context() as broken:
        breaking(broken, "remove", OSError("power cut"))
        with pytest.raises(StudyError):
            disk.delete(folder)
    assert not folder.exists()
    make()  # what the first death left does not block the next command, which removes it
    disk.delete(folder)
    disk.sweep(tmp_path.iterdir())
    disk.delete(folder)  # nor is it one that nothing is there
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_removed_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text("a", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    disk.delete(tmp_path / "link")
    assert [path.name for path in files_below(tmp_path)] == ["a"]


def test_a_moved_folder_replaces_the_one_that_was_there(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name, encoding="utf-8")
    disk.move(tmp_path / "new", tmp_path / "old")
    assert [str(p.relative_to(tmp_path)) for p in files_below(tmp_path)] == ["old/new"]
