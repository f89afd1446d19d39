"""Any bytes at all: rows or a message, a study or a message. Seeded, and short; scripts/fuzz_readers.py goes on."""

import base64
import json
from pathlib import Path

import pytest
from fuzzing import TARGETS, any_json, check_row, check_study, contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHORT = settings(max_examples=120, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
FOUND = json.loads((Path(__file__).parent / "found_by_fuzzing.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case["why"])
def test_what_fuzzing_broke_once_stays_mended(case: dict[str, str]) -> None:
    TARGETS[case["target"]][1](base64.b64decode(case["content"]))


@pytest.mark.parametrize("target", TARGETS)
def test_any_file_is_rows_or_a_message(target: str) -> None:
    start, check = TARGETS[target]
    check(start)

    @SHORT
    @given(contents(target))
    def holds(content: bytes) -> None:
        check(content)

    holds()


@SHORT
@given(st.dictionaries(st.text(max_size=5), any_json, max_size=4))
def test_any_row_is_text_or_a_message(row: dict[str, object]) -> None:
    check_row(row)


@SHORT
@given(st.dictionaries(st.sampled_from(["name", "model", "data", "arms", "train", "looks", "seed", "x"]), any_json))
def test_any_values_of_a_study_are_a_study_or_a_message(values: dict[str, object]) -> None:
    check_study(json.dumps(values).encode())
