"""What a study declares before its first confirmation run, and what a report may still say once that changed.

Who moves the margin, adds an arm or adds seeds after a test score was seen can have the word that they like. So the
declarations are stored before, and a report of others is exploratory: intervals, and no word.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.desk.fairness.blocking import hold_back
from tunewise.desk.fairness.finding import WORDS, Finding
from tunewise.desk.statistics.metrics import primary_metric
from tunewise.desk.statistics.verdict import Verdict
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import StudySpec, canonical_json
from tunewise.spec.resolved import ResolvedStudy

DEFAULT_COST = StudySpec.model_fields["cost"].default
CHANGED = "declarations-changed"
GONE = ("declarations.json",)  # in the place of the keys that changed: which did is not known


def declarations(study: ResolvedStudy, data: DataSummary) -> dict[str, Any]:
    """Arms, margin, metric, data, looks and cost as plain data.

    Names of arms, paths and the centres of searches decide nothing and are left out; of `rank: auto` the rank counts.
    """
    metric = primary_metric(data.task, study.primary)
    margin = study.margin_in(metric)
    arms = [
        {"method": "existing", "weights": data.existing.get(name)}
        if method.method == "existing"
        else method.model_dump(mode="json", exclude={"learning_rate", "max_rank"})
        for name, method in study.arms.items()
    ]
    declared = {
        "arms": sorted(arms, key=canonical_json),
        "margin": margin.model_dump(mode="json"),
        "metric": metric,
        "data": data.inputs.data,
        "looks": list(study.looks),
    }
    # the default is left out, as it was before there was a choice
    return declared if study.cost == DEFAULT_COST else {**declared, "cost": study.cost}


def changed(
    declared: Mapping[str, Any] | None, study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]
) -> tuple[str, ...]:
    """Which of the declarations are others than those stored before.

    GONE if nothing is stored although `records` hold a test score of an arm, before which it was stored.
    """
    if declared is None:
        return GONE if any(record.spec.role == "confirm" for record in records) else ()
    now = declarations(study, data)
    return tuple(key for key in {**now, **declared} if declared.get(key) != now.get(key))


def changed_finding(keys: tuple[str, ...]) -> Finding:
    """What the report says of changed declarations."""
    if keys == GONE:
        return Finding(
            id=CHANGED,
            severity="blocks",
            sentence="What the study declared before its first test score is not known: this report is exploratory. "
            "Put declarations.json back into the study folder, or ask again in a new one (--out), with other seeds.",
            evidence="declarations.json is gone",
            forbids=WORDS,
        )
    return Finding(
        id=CHANGED,
        severity="blocks",
        sentence="What was declared was changed after the first test score: this report is exploratory. "
        "Ask the new question in a new study folder (--out), with other seeds (`seed`).",
        evidence="changed: " + ", ".join(keys),
        forbids=WORDS,
    )


def as_exploratory(verdict: Verdict, finding: Finding) -> Verdict:
    """The verdict without its word; its interval stays."""
    held = hold_back(verdict, [finding])
    return held.replace(reason="declarations changed")
