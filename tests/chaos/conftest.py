"""The study that the tests of faults disturb, and what it is undisturbed."""

from pathlib import Path
from typing import Any

import pytest
from chaos_study import chaos_study, finish, outcome, write_report_alone

from tunewise.spec import StudySpec


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    return chaos_study(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def folder(study: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "study"
    finish(study, folder, write_report_alone)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    return outcome(folder)
