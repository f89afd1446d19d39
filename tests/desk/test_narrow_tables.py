"""At 80 columns no table loses a column or cuts a number, however long its names and large its figures are."""

import io
import re

import pytest
from planned_study import arm_plan, study_plan
from rich.console import Console
from rich.table import Table
from rich.text import Text
from simulated_study import data_summary

from tunewise.desk.protocol import resolve
from tunewise.desk.report.terminal.check import Checked, print_check
from tunewise.desk.report.terminal.plan import USES, print_plan
from tunewise.desk.report.terminal.tables import print_table
from tunewise.desk.report.terminal.text import print_rows
from tunewise.records import SplitSummary, TrainableSummary
from tunewise.spec import StudySpec

WIDTH = 80
NAME = "an-adapter-with-a-long-name"
LARGE = 123_456_789_012


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=WIDTH)


def written(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= WIDTH for line in text.splitlines())
    return text


@pytest.mark.parametrize("num_columns", [2, 5, 8, 12, 30])
def test_a_row_that_does_not_fit_becomes_a_block_of_lines(num_columns: int, console: Console) -> None:
    table = Table("name", title="a title", caption="a caption")
    for number in range(num_columns):
        table.add_column(f"column {number}", no_wrap=True)
    table.add_row(NAME, *(Text(f"{LARGE + number:,}") for number in range(num_columns)))
    print_table(table, console)
    said = written(console)
    assert all(f"{LARGE + number:,}" in said for number in range(num_columns))
    assert all(f"column {number}" in said for number in range(num_columns))
    assert "a title" in said
    assert "a caption" in said


def test_rows_of_the_report_and_of_adapters_keep_their_numbers(console: Console) -> None:
    columns = ("arm", "quality", "verdict", "trained", "time", "memory", "disk")
    numbers = [f"{LARGE + number:,}" for number in range(len(columns) - 2)]
    cells = (numbers[0], "undecided", *numbers[1:])
    print_rows(console, "title", columns, [(Text(NAME), *map(Text, cells))], "caption")
    said = written(console)
    assert all(cell in said for cell in cells)
    assert all(f"{column}: " in said for column in columns[1:])


@pytest.mark.parametrize("num_arms", [1, 3, 12, 100])
def test_a_plan_of_many_arms_shows_every_one(num_arms: int, console: Console) -> None:
    names = [f"lora-{number}" for number in range(num_arms)]
    asked = StudySpec.model_validate({"name": "n", "data": {"train": "a"}, "arms": {"lora": {"method": "lora"}}})
    print_plan(asked, study_plan(**{name: arm_plan() for name in names}), None, console)
    said = written(console)
    words = said.split()
    assert all(name in words for name in names)
    assert said.count("294,912") == num_arms
    assert all(said.count(f"   {use} ") == said.count("trainable parameters") for use in USES)


def test_a_check_of_large_data_and_models_keeps_its_columns(console: Console) -> None:
    counts = dict.fromkeys(("rows_read", "rows", "units", "tokens", "supervised_tokens"), LARGE)
    more = dict.fromkeys(("truncated_rows", "truncated_tokens", "duplicates_dropped"), LARGE + 1)
    splits = [SplitSummary(split=name, source="s", **counts, **more) for name in ("train", "valid", "test")]
    tuned = TrainableSummary(
        trainable_parameters=LARGE + 2,
        total_parameters=2 * LARGE,
        scale=2.0,
        num_target_modules=1234,
        linear_share=1.0,
        parameter_groups=(),
    )
    data = data_summary("sft", splits=[s.model_dump() for s in splits], arms={NAME: tuned.model_dump()})
    arms = {"full": {"method": "full"}, NAME: {"method": "lora"}}
    content = {"name": "n", "data": {"train": "a"}, "arms": arms, "looks": [3]}
    print_check(Checked(resolve.resolve(StudySpec.model_validate(content), data), data, None), console)
    said = written(console)
    for number, times in ((LARGE, 12), (LARGE + 1, 9), (LARGE + 2, 1)):
        assert said.count(f"{number:,}") >= times
    for header in ("units", "trained on", "rows truncated", "dropped", "modules", "linear", "scale", "first rates"):
        assert squeezed(header) in squeezed(said)
