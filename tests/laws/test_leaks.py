"""Laws of leaks: what is scored was not trained on."""

from pathlib import Path

import pytest
from law_tokenizers import Prepared, make_study, write_rows

from builders import make_data_summary, make_inputs
from tunewise.desk.fairness import check_before
from tunewise.errors import DataError
from tunewise.records import DataSummary
from tunewise.spec import StudySpec

TRAIN = ["only here", "of  valid", "of\ntest ", "of test", "Of Test", "only here"]
VALID = ["of valid", "mine", "of test too"]
TEST = ["of test", "of  test", "of test too", "test alone"]


def study_of(folder: Path, duplicates: str | None = None, train: list[str] | None = None) -> StudySpec:
    """A study of these prompts, every answer another, so only inputs can be the same; None: the default for them."""
    prompts = {"train": TRAIN if train is None else train, "valid": VALID, "test": TEST}
    data = {
        split: write_rows(
            folder / f"{split}.jsonl",
            [{"prompt": prompt, "completion": f"{split} {row}"} for row, prompt in enumerate(members)],
        )
        for split, members in prompts.items()
    }
    return make_study(data if duplicates is None else {**data, "duplicates": duplicates})


def seen_by_the_desk(prepared: Prepared) -> DataSummary:
    """The summary that rules about fairness read; what concerns the machine does not matter here."""
    given = prepared.summary
    return make_data_summary(
        task=given.task,
        labels=given.labels,
        splits=given.splits,
        example_prompt=given.example_prompt,
        example_supervised=given.example_supervised,
        notes=given.notes,
        near_duplicates=given.near_duplicates,
        exact_duplicates=given.exact_duplicates,
        laws=given.laws,
        inputs=make_inputs(data=given.data),
    )


def test_law_30_inputs_of_a_held_out_split_are_dropped_from_the_training_side_by_default(tmp_path: Path) -> None:
    """Train gives way to valid and test, valid gives way to test, test is never touched; each is counted."""
    study = study_of(tmp_path)
    prepared = Prepared(study, tmp_path / "out")
    kept = {split: [example.example for example in members] for split, members in prepared.examples.items()}
    assert kept["train"] == ["train:1", "train:5", "train:6"], "white space aside, 2 to 4 stand in valid or test"
    assert kept["valid"] == ["valid:1", "valid:2"]
    assert kept["test"] == ["test:1", "test:2", "test:3", "test:4"]
    assert {split.split: split.duplicates_dropped for split in prepared.summary.splits} == {
        "train": 3,
        "valid": 1,
        "test": 0,
    }
    assert prepared.law("duplicates", "train") == (3, ("train:2", "train:3", "train:4"))
    assert prepared.law("duplicates", "valid") == (1, ("valid:3",))
    told = {finding.id: finding.evidence for finding in check_before(study, seen_by_the_desk(prepared))}
    assert told["duplicates-dropped"] == "3 rows of train, 1 row of valid"


def test_law_30_no_input_of_test_is_left_in_what_is_trained_on_or_selected_by(tmp_path: Path) -> None:
    """After preparation the rendered inputs of the three splits, white space aside, have nothing in common."""
    prepared = Prepared(study_of(tmp_path), tmp_path / "out")
    inputs = {
        split: {" ".join(example.prompt.split()) for example in members} for split, members in prepared.examples.items()
    }
    assert not inputs["train"] & inputs["test"]
    assert not inputs["train"] & inputs["valid"]
    assert not inputs["valid"] & inputs["test"]


def test_law_30_duplicates_can_be_made_an_error_that_shows_them(tmp_path: Path) -> None:
    """`data.duplicates: error` refuses the data, with the count and the rows to look at."""
    with pytest.raises(DataError, match=r"3 of 6 rows of train.*train:2, train:3, train:4.*data\.duplicates: drop"):
        Prepared(study_of(tmp_path, "error"), tmp_path / "out")


def test_law_30_kept_duplicates_are_counted_and_block_every_verdict(tmp_path: Path) -> None:
    """`data.duplicates: keep` trains on all rows, says so, and no verdict at all can be given."""
    study = study_of(tmp_path, "keep")
    prepared = Prepared(study, tmp_path / "out")
    assert [len(prepared.examples[split]) for split in ("train", "valid", "test")] == [6, 3, 4]
    assert prepared.law("duplicates", "train") == (3, ("train:2", "train:3", "train:4"))
    assert prepared.summary.exact_duplicates == 2  # the first two rows of test
    blocking = {finding.id: finding.forbids for finding in check_before(study, seen_by_the_desk(prepared))}
    assert set(blocking["leakage-kept"]) == {"better", "as good", "worse"}
    dropping = study_of(tmp_path, "drop")
    dropped = Prepared(dropping, tmp_path / "dropped")
    assert dropped.summary.exact_duplicates == 0
    allowed = check_before(dropping, seen_by_the_desk(dropped))
    assert "leakage-kept" not in {finding.id for finding in allowed}


def test_law_30_nothing_left_to_train_on_is_an_error(tmp_path: Path) -> None:
    """A train split that is all in test is refused, not trained on as an empty set."""
    with pytest.raises(DataError, match="train would be empty"):
        Prepared(study_of(tmp_path, train=["of test", "test  alone"]), tmp_path / "out")


def test_law_30_repeated_test_inputs_are_one_unit(tmp_path: Path) -> None:
    """Test holds 4 rows and 3 inputs: the intervals speak of 3 units, which are not told apart by white space."""
    prepared = Prepared(study_of(tmp_path), tmp_path / "out")
    test = prepared.examples["test"]
    units = {example.example: example.unit for example in test}
    assert units["test:1"] == units["test:2"]
    assert len(set(units.values())) == 3
    assert prepared.summary.splits[2].units == 3
    assert prepared.summary.splits[2].rows == 4


def test_law_30_near_duplicates_are_counted_and_stay(tmp_path: Path) -> None:
    """Test rows with the words of a training row in another case, order or punctuation are counted, not dropped."""
    near = study_of(tmp_path, train=["Alone; TEST!", "too of of test", "test", "neither"])
    prepared = Prepared(near, tmp_path / "near")
    assert prepared.summary.near_duplicates == 2
    assert len(prepared.examples["train"]) == 4
    findings = {finding.id: finding.evidence for finding in check_before(near, seen_by_the_desk(prepared))}
    assert findings["near-duplicates"].startswith("2 of 4 test rows")
    assert Prepared(study_of(tmp_path, train=["neither"]), tmp_path / "far").summary.near_duplicates == 0
