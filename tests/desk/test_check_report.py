"""What `tunewise check` shows of the laws that concern the data."""

import re

import pytest
from planned_study import SPEED, arm_plan, study_plan
from rich.console import Console
from simulated_study import ARMS, data_summary

from tunewise.desk.protocol import resolve
from tunewise.desk.report.terminal.check import Checked, print_check
from tunewise.records import LawCount, SplitSummary
from tunewise.spec import StudySpec

ROWS = 1600


def split(name: str) -> SplitSummary:
    return SplitSummary(
        split=name,
        source="s",
        rows_read=ROWS,
        rows=ROWS,
        units=ROWS,
        tokens=8000,
        supervised_tokens=2000,
        truncated_rows=4 if name == "train" else 0,
        truncated_tokens=77 if name == "train" else 0,
        duplicates_dropped=0,
    )


def counts(**found: int) -> tuple[LawCount, ...]:
    laws = ("supervised", "truncation", "end-of-text", "duplicates", "boundary")
    return tuple(
        LawCount(
            law=law,
            split=name,
            count=found.get(law, 0) if name == "train" else 0,
            of=ROWS,
            examples=tuple(f"train:{row}" for row in range(1, min(found.get(law, 0), 3) + 1))
            if name == "train"
            else (),
        )
        for law in laws
        for name in ("train", "valid")
    )


def shown(rule: str = "drop", **found: int) -> dict[str, str]:
    """law -> its line of the table, blanks made one."""
    data = data_summary(splits=tuple(split(name) for name in ("train", "valid", "test")), laws=counts(**found))
    content = {"name": "s", "data": {"train": "train.jsonl", "duplicates": rule}, "arms": ARMS}
    made = resolve.resolve(StudySpec.model_validate(content), data)
    console = Console(width=240, force_terminal=False)
    with console.capture() as captured:
        print_check(Checked(made, data, None), console)
    table = captured.get().split("data checks")[1].split("The first training example")[0]
    lines = (re.sub(r"\s+", " ", line).strip() for line in table.splitlines())
    return {line.split()[0]: line for line in lines if line and line.split()[0] in {count.law for count in data.laws}}


def test_every_law_is_ok_where_nothing_is_found() -> None:
    table = shown()
    assert list(table) == ["supervised", "truncation", "end-of-text", "duplicates", "boundary"]
    assert all(line.split()[1] == "ok" for line in table.values())
    assert "tokens trained on: 25.0% of train, 25.0% of valid, 25.0% of test" in table["supervised"]


@pytest.mark.parametrize("law", ["supervised", "truncation", "end-of-text", "duplicates", "boundary"])
def test_what_is_found_is_to_be_looked_at_with_its_count_and_three_rows(law: str) -> None:
    table = shown(**{law: 4})
    states = {name: line.split()[1] for name, line in table.items()}
    assert states == {**dict.fromkeys(table, "ok"), law: "look"}
    assert "4 of 1,600 in train" in table[law]
    assert table[law].endswith("see train:1 train:2 train:3")


def test_lost_tokens_are_counted_and_kept_duplicates_refused() -> None:
    assert "77 answer tokens lost" in shown(truncation=4)["truncation"]
    kept = shown("keep", duplicates=2)["duplicates"]
    assert kept.split()[1] == "refused"
    assert "kept, so no verdict" in kept
    assert shown("keep")["duplicates"].split()[1] == "ok", "nothing to keep"


@pytest.mark.parametrize(
    ("read", "learnt", "shown"),
    [
        ("ask\n", "answer", "ask\n»answer«"),
        ("one\x1etwo", "first\x1esecond", "one»first«two»second«"),
        ("one\x1eend", "first", "one»first«end"),
        ("a\x1eb\x1ec", "of the text's own", "abc»of the text's own«"),
    ],
)
def test_the_first_example_is_shown_in_its_own_order(read: str, learnt: str, shown: str) -> None:
    data = data_summary(
        splits=tuple(split(name) for name in ("train", "valid", "test")), example_prompt=read, example_supervised=learnt
    )
    made = resolve.resolve(StudySpec.model_validate({"name": "s", "data": {"train": "t"}, "arms": ARMS}), data)
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        print_check(Checked(made, data, None), console)
    assert captured.get().split("between » and «:\n")[1].split("\narms")[0].strip() == shown


def test_memory_and_time_are_told_in_a_line_for_every_arm_and_one_for_the_study() -> None:
    data = data_summary(splits=tuple(split(name) for name in ("train", "valid", "test")))
    made = resolve.resolve(StudySpec.model_validate({"name": "s", "data": {"train": "t"}, "arms": ARMS}), data)
    arms = {name: arm_plan(speed=SPEED) for name in made.arms}
    plan = study_plan({"splits": data.splits}, **{**arms, "full": arm_plan(step=None, note="it looks away")})
    console = Console(width=200, force_terminal=False)
    for found in (plan, plan.replace(arms=arms)):
        with console.capture() as captured:
            print_check(Checked(made, data, found), console)
        lines = [line for line in captured.get().splitlines() if line.startswith("Planned")]
        assert len(lines) == len(arms) + (found is not plan), "the time of the study needs that of all its arms"
        assert "10.5 GiB peak per step (fits in 24 GiB), 2.0 s per step" in lines[-2]
        assert ("it looks away" in lines[0]) == (found is plan)
