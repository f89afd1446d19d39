"""Laws of the study folder: no writer follows a link below it, and a folder of somebody else's stays as it is."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from chaos_study import chaos_study, digest, finish

import tunewise.storage.ledger
from laws.small_studies import executor_here
from tunewise.commands import generate, plan, report
from tunewise.desk.report.pages.html import write_report
from tunewise.errors import StudyError
from tunewise.executors.local.server import _print_into
from tunewise.lab.train.step_log import StepLog
from tunewise.spec import StudySpec
from tunewise.storage import disk
from tunewise.storage.files import files_below
from tunewise.storage.ledger import Ledger
from tunewise.storage.lock import exclusive, reporting
from tunewise.storage.seal import sealed, unsealed

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.chmod", "os.truncate", "os.link"}
IN_PLACE = {".lock", ".report-lock", "steps.jsonl", "log.txt"}  # opened, not replaced
listening: list[set[Path]] = []  # to what the process does to the disk; an audit hook cannot be removed


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not listening or (event != "open" and event not in CHANGES):
        return
    if event == "open" and not (arguments[2] or 0) & WRITING:
        return
    for name in arguments[:2]:
        if isinstance(name, str | os.PathLike) and Path(name).is_absolute():
            listening[-1].add(Path(name))


@contextmanager
def heard() -> Iterator[set[Path]]:
    """Every path that is opened for writing, renamed, deleted or made inside."""
    sys.addaudithook(_hear)
    listening.append(found := set())
    try:
        yield found
    finally:
        listening.pop()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    torch.set_num_threads(1)  # as every test here: the number is a part of what identifies a run
    return chaos_study(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def done(study: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A finished study with its report, and every path below it that was touched, relative to it."""
    folder = tmp_path_factory.mktemp("done") / "study"
    with heard() as found:
        finish(study, folder)
    touched = {path for path in [*found, *folder.rglob("*")] if folder in path.parents}
    return folder, {str(path.relative_to(folder)) for path in touched}


def run_again(study: StudySpec, folder: Path) -> None:
    finish(study, folder)


def check_again(study: StudySpec, folder: Path) -> None:
    with patch("tunewise.commands.plan.LocalExecutor", executor_here):
        plan.check(study, folder)


def report_again(_: StudySpec, folder: Path) -> None:
    report.report(folder)


def answer_again(_: StudySpec, folder: Path) -> None:
    generate.answers(folder, "w4 w20", 2)


def export_again(_: StudySpec, folder: Path) -> None:
    report.export([folder], folder.parent / "records.csv")


COMMANDS = (run_again, check_again, report_again, answer_again, export_again)


def link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / ("documents" if path.suffix == "" else "victim.txt"))


def dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "not-there-yet")


def hard_link(path: Path, outside: Path) -> None:
    path.hardlink_to(outside / "victim.txt")


def named_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


KINDS = (link, dangling_link, hard_link, named_pipe)


@contextmanager
def planted(path: Path, kind: Callable[[Path, Path], None], outside: Path) -> Iterator[None]:
    """Something that leads outside lies in the place of `path`."""
    aside, is_new = outside.parent / "aside", not path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(aside)
    kind(path, outside)
    try:
        yield
    finally:
        path.unlink()
        if aside.exists():
            aside.rename(path)
        if is_new:
            path.parent.rmdir()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What a user has and a study must not touch."""
    (tmp_path / "outside" / "documents" / "thesis").mkdir(parents=True)
    for name in ("victim.txt", "documents/taxes.pdf", "documents/thesis/chapter.tex"):
        (tmp_path / "outside" / name).write_text("years of work", encoding="utf-8")
    return tmp_path / "outside"


def is_temporary(name: str) -> bool:
    return any(disk.LITTER.fullmatch(part) for part in Path(name).parts)


# --- no link is followed


def test_law_38_every_path_that_a_study_touches_is_known_here(done: tuple[Path, set[str]]) -> None:
    names = {Path(name).name for name in done[1]}
    assert {".lock", ".report-lock", "study.yaml", "declarations.json", "hashes.json", "checkpoint"} <= names
    assert {"record.json", "steps.jsonl", "weights", "README.md", "figures", "report.html", "report.json"} <= names
    assert len({name for name in done[1] if not is_temporary(name)}) > 60


@pytest.mark.parametrize("kind", KINDS)
def test_law_38_whatever_leads_outside_at_any_of_these_paths_is_refused_by_every_command(
    study: StudySpec, done: tuple[Path, set[str]], outside: Path, kind: Callable[[Path, Path], None]
) -> None:
    folder, touched = done
    before, theirs = digest(folder), digest(outside)
    old = {f"{name}.tmp" for name in ("report.json", "report.html", "study.yaml", "data/hashes.json")}
    for name in sorted(name for name in touched | old if not is_temporary(name)):
        with planted(folder / name, kind, outside):
            for command in COMMANDS:
                with pytest.raises(StudyError):
                    command(study, folder)
    assert digest(outside) == theirs
    assert digest(folder) == before


def test_law_38_temporary_names_are_never_the_same_twice(study: StudySpec, done: tuple[Path, set[str]]) -> None:
    folder = done[0]
    with heard() as first:
        write_report(Ledger(folder))
    with heard() as second:
        write_report(Ledger(folder))
    temporary = [{path for path in found if is_temporary(path.name)} for found in (first, second)]
    assert len(temporary[0]) == len(temporary[1]) > 4
    assert not temporary[0] & temporary[1]


def test_law_38_the_system_call_refuses_what_comes_behind_the_gate(
    study: StudySpec, done: tuple[Path, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links to files that do not exist yet lie at every name that the study will give a file; nothing makes them."""
    files = [name for name in done[1] if (done[0] / name).is_file() and Path(name).name not in IN_PLACE]
    folder, outside = tmp_path / "study", tmp_path / "outside"
    outside.mkdir()
    for number, name in enumerate(name for name in files if not name.startswith("best/")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(outside / f"{number}")
    for check in ("require_no_links", "require_inside"):
        monkeypatch.setattr(tunewise.storage.ledger, check, lambda folder: None)
    finish(study, folder)
    assert list(outside.iterdir()) == []
    assert [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_law_38_a_file_that_is_changed_in_place_is_the_studys_alone(
    outside: Path, tmp_path: Path, kind: Callable[[Path, Path], None]
) -> None:
    theirs = digest(outside)
    places: dict[str, Callable[[Path], object]] = {
        ".lock": lambda path: exclusive(path.parent).__enter__(),
        ".report-lock": lambda path: reporting(path.parent).__enter__(),
        "steps.jsonl": lambda path: StepLog(path).open(0),
        "log.txt": _print_into,
    }
    for name, use in places.items():
        kind(tmp_path / name, outside)
        with pytest.raises(StudyError, match=r"it is a link|hard link, a named pipe"):
            use(tmp_path / name)
    assert digest(outside) == theirs


@pytest.mark.parametrize("kind", [link, dangling_link, named_pipe])
def test_law_38_what_an_option_names_is_a_new_file_or_one_to_replace(
    done: tuple[Path, set[str]], outside: Path, tmp_path: Path, kind: Callable[[Path, Path], None]
) -> None:
    theirs, path = digest(outside), tmp_path / "records.csv"
    kind(path, outside)
    with pytest.raises(StudyError, match="Give the name of a new file"):
        report.export([done[0]], path)
    assert digest(outside) == theirs


@pytest.mark.parametrize("place", ["runs/{}", "best", "runs/{}/weights"])
def test_law_38_a_link_that_came_after_the_gate_is_refused_where_a_run_begins_and_ends(
    done: tuple[Path, set[str]], outside: Path, tmp_path: Path, place: str
) -> None:
    folder, theirs = tmp_path / "study", digest(outside)
    shutil.copytree(done[0], folder)
    ledger = Ledger.open(folder)
    record = next(record for record in ledger.records() if record.spec.arm == "lora")
    path = folder / place.format(record.run_id)
    disk.delete(path)
    if place != "runs/{}/weights":
        (ledger.run_folder(record.run_id) / "weights").mkdir(parents=True)
        disk.delete(path)
    path.symlink_to(outside / "documents")
    end = partial(ledger.promote, "lora", record.run_id, keep_in_run=False)
    write: Callable[[], object] = partial(ledger.begin, record.spec) if place == "runs/{}" else end
    with pytest.raises(StudyError, match="is a link"):
        write()
    assert digest(outside) == theirs


@pytest.mark.parametrize("name", ["../../../documents", "0" * 16, "documents"])
def test_law_38_a_record_is_of_the_folder_that_it_lies_in(
    done: tuple[Path, set[str]], study: StudySpec, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(done[0], folder)
    path = sorted(folder.glob("runs/*/record.json"))[0]
    content = unsealed(path.read_text(encoding="utf-8"))
    path.write_text(sealed({**(content or {}), "run_id": name}), encoding="utf-8")
    for command in (run_again, report_again):
        with pytest.raises(StudyError, match="16 hex digits"):
            command(study, folder)
    path.parent.rename(path.parent.with_name("copy-of-a-run"))
    with pytest.raises(StudyError, match="16 hex digits"):
        report_again(study, folder)


# --- a folder of the user's

LAYOUTS: dict[str, dict[str, str]] = {
    "a project": {"study.yaml": "# mine\nname: x\n", "figures/paper.svg": "x", "best/full/mine.bin": "x"},
    "only a study file": {"study.yaml": "# mine\nname: x\n"},
    "an empty study file": {"study.yaml": "", "notes.md": "x"},
    "notes": {"notes.md": "x"},
    "a hidden file": {".git/config": "x"},
    "its own data and runs": {"data/train.jsonl": "{}", "runs/tensorboard/events": "x"},
    "studies": {"runs/quickstart/study.yaml": "x"},
    "a log in data": {"data/log.txt": "x"},
    "pages": {"report.html": "x", "report.json": "{}", "figures/validation.svg": "x"},
    "a lock of another program": {".lock": "x", "package.json": "{}"},
}


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_law_39_a_folder_that_holds_something_else_is_refused_and_stays_as_it_is(
    study: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    folder = lay_out(tmp_path / "mine", LAYOUTS[layout])
    before = digest(folder)
    monkeypatch.chdir(folder)
    for command in (run_again, check_again):
        for out in (folder, Path(), f"{folder}/", "."):
            with pytest.raises(StudyError, match=r"does not hold a study .* Choose a new folder with --out"):
                command(study, out)  # type: ignore[arg-type]
        with pytest.raises(StudyError, match="--out is empty"):
            command(study, "")  # type: ignore[arg-type]
    for read in (report_again, answer_again):
        with pytest.raises(StudyError):
            read(study, folder)
    assert digest(folder) == before


@pytest.mark.parametrize(
    "left", [(), ("runs/",), (".lock", "runs/"), (".lock", "runs/writable.0123456789abcdef.tmp", "data/log.txt")]
)
def test_law_39_what_a_command_that_ended_early_left_is_a_studys(tmp_path: Path, left: tuple[str, ...]) -> None:
    for name in left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).mkdir(exist_ok=True) if name.endswith("/") else (tmp_path / name).touch()
    Ledger(tmp_path).create()


def test_law_39_what_a_user_puts_into_a_study_folder_is_not_deleted(
    done: tuple[Path, set[str]], study: StudySpec, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(done[0], folder)
    lost = next(path for path in folder.glob("runs/*/record.json") if '"lora"' in path.read_text(encoding="utf-8"))
    notes = ["figures/paper.svg", "notes.md", f"runs/{lost.parent.name}/notes.md", "best/lora/mine/notes.md"]
    lay_out(folder, dict.fromkeys(notes, "mine"))
    own = folder / "study.yaml"
    own.write_text("# mine, with comments\n", encoding="utf-8")
    lost.unlink()
    for weights in folder.glob("best/*/*.safetensors"):
        weights.write_bytes(b"damaged")
    finish(study, folder)
    kept = {*folder.glob("study.yaml.*.kept"), *(folder / name for name in notes[:3])}
    kept.add(folder / "best" / "lora.others" / "mine" / "notes.md")
    texts = [path.read_text(encoding="utf-8") for path in sorted(kept)]
    assert len(texts) == 5
    assert all("mine" in text for text in texts)
    assert Ledger.open(folder).study().name == "chaos"


def test_law_39_a_copy_of_rows_is_no_more_readable_than_the_rows(study: StudySpec, tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    for mode, left in ((0o600, 0o700), (0o640, 0o750), (0o644, 0o755)):
        source.write_text("{}\n", encoding="utf-8")
        source.chmod(mode)
        folder = tmp_path / f"{mode:o}"
        with patch("os.umask", lambda mask: mask):
            folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        Ledger(folder).create([str(source), "org/name", "builtin:stdlib"])
        assert folder.stat().st_mode & 0o777 == left


def test_law_39_of_a_deliverable_one_may_read_all_or_nothing(done: tuple[Path, set[str]]) -> None:
    files = files_below(done[0] / "best")
    assert len({path.stat().st_mode for path in files}) == 1


# --- what is written beside it


def test_law_38_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "merged"
    for failure in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with suppress(StudyError, KeyboardInterrupt), disk.new_folder(out) as place:
            (place / "config.json").touch()
            raise failure
        assert list(tmp_path.iterdir()) == []
    with disk.new_folder(out) as place:
        (place / "config.json").touch(mode=0o600)
    assert [path.name for path in out.iterdir()] == ["config.json"]
    with pytest.raises(Exception, match="is not empty"), disk.new_folder(out):
        pass


def test_law_38_an_answer_is_of_models_that_stayed_where_they_were(
    done: tuple[Path, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deliverable is replaced while it is read: all is read again, whatever went wrong."""
    folder = tmp_path / "study"
    shutil.copytree(done[0], folder)
    tries: list[int] = []

    def replacing(times: int, ledger: Ledger, *_: object) -> dict[str, str]:
        tries.append(1)
        if len(tries) <= times:
            best = ledger.best_folder("lora")
            disk.move(Path(shutil.copytree(best, tmp_path / f"new-{len(tries)}-{times}")), best)
            raise ValueError("Repo id must be in the form ...")
        return {"lora": "an answer"}

    monkeypatch.setattr("tunewise.commands.generate._answers", partial(replacing, 2))
    assert generate.answers(folder, "w4", 1) == {"lora": "an answer"}
    assert len(tries) == 3
    tries.clear()
    monkeypatch.setattr("tunewise.commands.generate._answers", partial(replacing, 9))
    with pytest.raises(StudyError, match="are being replaced"):
        generate.answers(folder, "w4", 1)
