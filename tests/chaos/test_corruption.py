"""A finished study with a damaged file: the file is named, or nothing that is said changes, or it is made again."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chaos_study import finish, outcome, write_report_alone
from rich.console import Console

from desk.planned_study import arm_plan, study_plan
from lab_fixtures import _one_thread, _quiet
from tunewise.commands.generate import answers
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.report.terminal.listing import print_listing
from tunewise.errors import UserError
from tunewise.spec import StudySpec
from tunewise.storage.files import files_below
from tunewise.storage.ledger import Ledger

__all__ = ["_one_thread", "_quiet"]

Damage = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """One bit is another."""
    if not content:
        return b"\1"
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, draw: random.Random) -> bytes:
    """The end is missing."""
    return content[: draw.randrange(len(content))] if content else b""


DAMAGES: tuple[Damage, ...] = (flipped, cut)


@pytest.fixture(scope="module")
def folder(folder: Path) -> Path:
    ledger = Ledger(folder)  # without a plan until here, because no lab makes one
    ledger.store_plan(ledger.data_summary().key, ledger.study(), study_plan(full=arm_plan(), lora=arm_plan()))
    assert write_report_alone(ledger).arm("lora").planned is not None
    return folder


@contextmanager
def damaged(path: Path, damage: Damage, seed: str) -> Iterator[None]:
    """The file is damaged inside."""
    content = path.read_bytes()
    path.write_bytes(damage(content, random.Random(seed)))
    try:
        yield
    finally:
        path.write_bytes(content)


def said(folder: Path) -> Any:
    """All that the report says, or whom it refuses to believe."""
    try:
        return build_report(Ledger.open(folder)).model_dump()
    except UserError as error:
        return str(error)


def wrong_reports(folder: Path, cases: list[tuple[Path, Damage]], round_number: int) -> list[str]:
    """The damages after which the report says something else, and does not name the file."""
    right, wrong = said(folder), []
    for path, damage in cases:
        with damaged(path, damage, f"{round_number} {path.name} {damage.__name__}"):
            found = said(folder)
        is_named = isinstance(found, str) and str(path.parent) in found and path.name in found
        if found != right and not is_named:
            wrong.append(f"{path.relative_to(folder)} {damage.__name__}: {str(found)[:200]}")
    return wrong


@pytest.mark.parametrize("round_number", [0, 1])
def test_a_report_on_every_damaged_file_is_the_same_or_names_the_file(folder: Path, round_number: int) -> None:
    cases = [(path, damage) for path in files_below(folder) for damage in DAMAGES]
    assert len(cases) > 80
    assert wrong_reports(folder, cases, round_number) == []


CONTINUED = (
    "study.yaml",
    "data/hashes.json",
    "data/*/data.json",
    "data/*/train.parquet",
    "data/*/sha256.json",
    "best/lora/adapter_model.safetensors",
    "best/full/model.safetensors",
    ".lock",
)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", CONTINUED)
def test_the_same_command_makes_what_is_damaged_again(
    pattern: str, damage: Damage, study: StudySpec, folder: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    broken = tmp_path / "study"
    shutil.copytree(folder, broken)
    (path,) = broken.glob(pattern)
    with damaged(path, damage, pattern):
        finish(study, broken, write_report_alone)
        assert outcome(broken) == whole


@pytest.mark.parametrize("pattern", ["runs/*/record.json", "runs/*/scores.parquet", "declarations.json"])
def test_the_same_command_refuses_what_it_cannot_make_again_and_says_what_to_do(
    pattern: str, study: StudySpec, folder: Path
) -> None:
    path = sorted(folder.glob(pattern))[0]
    with damaged(path, flipped, pattern), pytest.raises(UserError, match=r"Delete|Restore it") as refused:
        finish(study, folder, write_report_alone)
    assert str(path) in str(refused.value)


def test_a_damaged_model_gives_no_answer(folder: Path) -> None:
    path = folder / "best/lora/adapter_model.safetensors"
    with (
        damaged(path, flipped, "answer"),
        pytest.raises(UserError, match="best/lora was changed after"),
    ):
        answers(folder, "w4 w20", 2)


def test_a_list_says_whose_report_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with damaged(folder / "report.json", cut, "list"):
        print_listing(folder.parent, Console(width=300))
    assert f"damaged report: run `tunewise report {folder}`" in capsys.readouterr().out
