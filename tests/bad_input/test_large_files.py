"""However large a file, a row of it at a time is in memory; scripts/large_files.py does it with 10 million rows."""

import runpy
from pathlib import Path

import pytest

LARGE = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "large_files.py"))


@pytest.mark.slow
def test_rows_stream_by_and_their_number_takes_no_memory() -> None:
    few, many = (LARGE["measure"](LARGE["many_rows"], count) for count in (20_000, 300_000))
    assert (few[1], many[1]) == (20_000, 300_000)
    assert many[0] < few[0] + 2**22, "15 times the rows, within 4 MiB"


@pytest.mark.slow
def test_rows_that_are_not_drawn_take_40_bytes_each_at_most() -> None:
    few, many = (LARGE["measure"](LARGE["many_rows"], count, LARGE["PREPARE"]) for count in (20_000, 120_000))
    assert (few[1], many[1]) == (20_000, 120_000)
    assert many[0] < few[0] + 100_000 * 40 + 2**22, "6 times the rows, their numbers and 4 MiB"


@pytest.mark.slow
def test_a_line_of_200_mb_is_refused_before_it_is_read_whole() -> None:
    memory, rows, said = LARGE["measure"](LARGE["one_line"], LARGE["LINE"])
    assert rows == 0
    assert "large.jsonl, line 1: is longer than the limit of 16,777,216 characters" in said
    assert memory < 2**27, "under 128 MiB for a line of 200 MB"
