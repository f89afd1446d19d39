"""Rules about the data: does the test set measure what it should?"""

from collections.abc import Iterator

from tunewise.desk.fairness.case import Case
from tunewise.desk.fairness.finding import WORDS, Finding, count
from tunewise.desk.statistics.power import MIN_UNITS

WANTED_UNITS = 30  # independent test units below which the intervals cover too little


def few_units(case: Case) -> Iterator[Finding]:
    """Few independent test units: below 30 intervals are unreliable, below 10 no verdict is given.

    Units of unequal size weigh as fewer equal ones.
    """
    test = case.data.split("test")
    weighing = test.units if test.effective_units is None else test.effective_units
    if weighing >= WANTED_UNITS:
        return
    few = weighing < MIN_UNITS
    yield Finding(
        id="few-units",
        severity="blocks" if few else "warns",
        sentence="The test set has too few independent groups of rows "
        + (
            "for a verdict. Add test data."
            if few
            else "for its intervals to be fully reliable. Add test data if you can."
        ),
        evidence=f"{count(test.units, 'group')} in {count(test.rows, 'row')}"
        + (f", of unequal size, weighing as {weighing:.1f} equal ones" if weighing < test.units - 0.5 else "")
        + f"; recommended: {WANTED_UNITS} or more",
        forbids=WORDS if few else (),
    )


def leakage(case: Case) -> Iterator[Finding]:
    """Test inputs that are also in the training data, kept or dropped, and near-duplicates of training inputs."""
    exact, test_rows = case.data.exact_duplicates, count(case.data.split("test").rows, "test row")
    if exact or (exact is None and case.study.data.duplicates == "keep"):
        yield Finding(
            id="leakage-kept",
            severity="blocks",
            sentence="Test inputs that are also in the training data were kept, so scores may measure memorization. "
            "Set `data.duplicates: drop`.",
            evidence=f"{'an unknown number' if exact is None else exact} of {test_rows}",
            forbids=WORDS,
        )
    dropped = {s.split: s.duplicates_dropped for s in case.data.splits if s.duplicates_dropped}
    if dropped:
        yield Finding(
            id="duplicates-dropped",
            severity="note",
            sentence="Rows whose input is in two splits were dropped from the training side.",
            evidence=", ".join(f"{count(n, 'row')} of {split}" for split, n in dropped.items()),
        )
    if case.data.near_duplicates:
        yield Finding(
            id="near-duplicates",
            severity="warns",
            sentence="Some test inputs are near-duplicates of training inputs, so scores may measure memorization.",
            evidence=f"{case.data.near_duplicates} of {test_rows}",
        )


def resampled(case: Case) -> Iterator[Finding]:
    """Training and validation sets that differ between confirmation seeds (`data.resample`)."""
    if case.study.data.resample:
        train, valid = (case.data.split(split).rows for split in ("train", "valid"))
        yield Finding(
            id="training-resampled",
            severity="note",
            sentence="Every confirmation seed draws its own training and validation sets, the same in every arm, so "
            "the intervals include part of the variation between training sets.",
            evidence=f"training sets share {train / (train + valid):.0%} of their rows on average",
        )


def truncated_rows(case: Case) -> Iterator[Finding]:
    """Rows that were truncated to `data.max_length`, and the tokens (for `sft`: of the answer) that were lost."""
    cut = [s for s in case.data.splits if s.truncated_rows]
    if cut:
        yield Finding(
            id="truncated-rows",
            severity="warns",
            sentence=f"Examples longer than {case.study.data.max_length} tokens were truncated. "
            "Raise `data.max_length` to keep them whole.",
            evidence=", ".join(
                f"{count(s.truncated_rows, 'row')} and {count(s.truncated_tokens, 'token')} of {s.split}" for s in cut
            ),
        )
