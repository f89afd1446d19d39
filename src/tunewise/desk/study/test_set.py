"""How often a test set was used for verdicts: each study spends some of the error that the next one relies on."""

import datetime
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from tunewise.desk.fairness.finding import Finding
from tunewise.desk.statistics.look import looks_of
from tunewise.desk.study.declarations import declarations
from tunewise.desk.study.looks import Reading
from tunewise.desk.study.state import StudyState
from tunewise.spec import canonical_json
from tunewise.spec.resolved import ResolvedStudy
from tunewise.storage.test_sets import NAME, TestSetView, Use, uses_of

SHOWN = 5  # studies that are named


def study_id(state: StudyState) -> str:
    """16 hex digits of a study: a hash of what it asks and trains, so not of its folder, name or machine."""
    study = state.study
    trained = study.model_dump(mode="json", include={"seed", "train", "tuning", "checkpoint"})
    content = [declarations(study, state.data), trained, state.data.inputs.base]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


def uses_in(reading: Reading) -> list[Use]:
    """The looks of a complete study, to record; none if it is not counted."""
    state = reading.state
    if not _is_counted(state) or not reading.is_complete:
        return []
    assert state.data.test_set is not None, "counted"
    looks = sorted(set(reading.looks.values()))
    return [
        Use(
            test_set=state.data.test_set,
            study=study_id(state),
            name=state.study.name,
            look=look,
            verdicts=list(reading.looks.values()).count(look),
            date=datetime.datetime.now(datetime.UTC).date(),
        )
        for look in looks
    ]


def _is_counted(state: StudyState) -> bool:
    return state.data.test_set is not None and state.study.machine.test_set_ledger


class Uses(NamedTuple):
    """The recorded uses of a study's test set."""

    view: TestSetView
    others: dict[str, Use]  # the latest use of every other study


def recorded_uses(state: StudyState) -> Uses | None:
    """The recorded uses of the study's test set; None: it does not count them."""
    if not _is_counted(state):
        return None
    assert state.data.test_set is not None, "counted"
    own, found = study_id(state), uses_of(state.data.test_set)
    others = [use for use in found if use.study != own]
    view = TestSetView(
        sha256=state.data.test_set,
        other_studies=len({use.study for use in others}),
        other_verdicts=sum(use.verdicts for use in others),
        is_recorded=any(use.study == own for use in found),
    )
    return Uses(view, {use.study: use for use in others})


def findings_on_test_set(reading: Reading, uses: Uses | None) -> Iterator[Finding]:
    """A finding if other studies used the test set, and one if this study could not be recorded."""
    if uses is None or not reading.is_complete:
        return
    if uses.others:
        yield _reused(reading.state.study, uses)
    if reading.looks and not uses.view.is_recorded:
        yield Finding(
            id="test-set-not-recorded",
            severity="note",
            sentence="This study is not in this machine's ledger of test sets, so later studies on the same test set "
            "will not count it. Either it was run on another machine, or the ledger cannot be written.",
            evidence=f"{NAME} in the folder tunewise of your data folder; see machine.test_set_ledger",
        )


def _reused(study: ResolvedStudy, uses: Uses) -> Finding:
    planned, used = study.studies_per_test_set, uses.view.other_studies + 1
    is_planned = used <= planned
    of_a_study = sum(look.error for look in looks_of(study.looks, can_stop=False)) / planned
    of_all = 1 - (1 - of_a_study) ** used
    others = "1 other study" if used == 2 else f"{used - 1} other studies"
    advice = (
        f"The error of each was divided in advance (studies_per_test_set: {planned})."
        if is_planned
        else "Use new test data for the next question, or declare `studies_per_test_set` before its first run."
    )
    named = [f"{use.name} ({use.date})" for use in list(uses.others.values())[-SHOWN:]]
    return Finding(
        id="test-set-reused",
        severity="note" if is_planned else "warns",
        sentence=f"This test set has been used for verdicts by {others}. If each study has an error of "
        f"about {of_a_study:.2g}, {used} studies together have one of about {of_all:.2g}. {advice}",
        evidence=", ".join(named) + (f" and {used - 1 - SHOWN} more" if used - 1 > SHOWN else ""),
    )
