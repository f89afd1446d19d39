"""Killed at any operation on the disk, and at random moments, a study ends as one that nothing happened to."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from chaos_study import Deaths, finish, killed_after, outcome, visited, write_report_alone

from lab_fixtures import _one_thread, _quiet
from tunewise.spec import StudySpec
from tunewise.storage.ledger import Ledger

__all__ = ["_one_thread", "_quiet"]
NUM_KILLS = 5
LONGEST = 3.0  # seconds until a kill: about as long as the study takes, its report included


@pytest.fixture(scope="module")
def deaths(study: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Deaths:
    """Every folder that the study could leave behind, from one that was not disturbed."""
    place = tmp_path_factory.mktemp("deaths")
    found = Deaths(place / "whole", place)
    with visited(found.visit):
        finish(study, found.folder, write_report_alone)
    return found


@pytest.fixture(scope="module")
def whole(deaths: Deaths) -> dict[str, Any]:
    return outcome(deaths.folder)


def differences(study: StudySpec, whole: dict[str, Any], left: dict[str, Path], place: Path) -> list[str]:
    """The deaths after which the same command does not make what the undisturbed one made."""
    wrong = []
    for happening, folder in left.items():
        continued = place / "continued"
        shutil.copytree(folder, continued)
        finish(study, continued, write_report_alone)
        if outcome(continued) != whole:
            wrong.append(happening)
        shutil.rmtree(continued)
    return wrong


def test_the_undisturbed_study_has_a_verdict_and_both_deliverables(deaths: Deaths, whole: dict[str, Any]) -> None:
    assert whole["report"]["is_complete"]
    records = Ledger(deaths.folder).records()
    assert [len(whole[r.run_id][1]) for r in records if r.spec.role != "base"] == [3] * 4
    assert {"best/full/model.safetensors", "best/lora/adapter_model.safetensors"} <= whole.keys()


def test_it_can_die_at_every_kind_of_operation_on_every_kind_of_file(deaths: Deaths) -> None:
    assert deaths.num_points > 250
    kinds = {happening.split(maxsplit=1)[1].split("-")[0] for happening in deaths.left}
    files = ("data.json", "study.yaml", "declarations.json", "spec.json", "selected", "step", "scores.parquet")
    assert {f"half filled {name}" if "." not in name else f"half filled {name}.tmp" for name in files} <= kinds
    assert {
        "half filled record.json.tmp",
        "half removed checkpoint.tmp",
        "append steps.jsonl",
        "rename weights",
    } <= kinds


def test_killed_at_some_operations_it_ends_as_if_it_had_not_been(
    study: StudySpec, deaths: Deaths, whole: dict[str, Any], tmp_path: Path
) -> None:
    some = random.Random(0).sample(list(deaths.left.items()), 3)
    assert differences(study, whole, dict(some), tmp_path) == []


@pytest.mark.slow
def test_killed_at_every_operation_of_a_run_and_after_it_the_study_ends_as_if_it_had_not_been(
    study: StudySpec, deaths: Deaths, whole: dict[str, Any], tmp_path: Path
) -> None:
    """All that differs from one run to the next is its seed and its arm: `make chaos` takes every run."""
    last = max(n for n, happening in enumerate(deaths.left) if "fill spec.json" in happening)
    assert differences(study, whole, dict(list(deaths.left.items())[last:]), tmp_path) == []


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(study: StudySpec, tmp_path: Path) -> None:
    finish(study, tmp_path / "whole")
    draw, folder = random.Random(1), tmp_path / "broken"
    for _ in range(NUM_KILLS):
        killed_after(draw.uniform(0, LONGEST), study, folder)
    finish(study, folder)
    assert outcome(folder) == outcome(tmp_path / "whole")
