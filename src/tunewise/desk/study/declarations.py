"""Declarations of a study, stored before its first confirmation run, and the effect of changing them later.

Changing the margin, the arms or the seeds after seeing a test score makes it possible to choose the verdict. So the
declarations are stored first, and a report with other ones is exploratory: it gives intervals, but no verdict.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.desk.fairness.blocking import hold_back
from tunewise.desk.fairness.finding import WORDS, Finding
from tunewise.desk.metrics.metrics import primary_metric
from tunewise.desk.statistics.verdict import Verdict
from tunewise.records import DataSummary, RunRecord
from tunewise.spec import StudySpec, canonical_json
from tunewise.spec.resolved import ResolvedStudy

DEFAULTS = StudySpec.model_fields
CHANGED = "declarations-changed"
GONE = ("declarations.json",)  # in the place of the keys that changed: which did is not known


def declarations(study: ResolvedStudy, data: DataSummary) -> dict[str, Any]:
    """Arms, margin, metrics, data, looks, resampling, cost and studies per test set as plain data.

    Names of arms, paths and search centers are left out, because they decide nothing; for `rank: auto` the rank counts.
    """
    metric = primary_metric(data.task, study.primary)
    margin = study.margin_in(metric)
    arms = [
        {"method": "existing", "weights": list(of) if isinstance(of := data.existing.get(name), tuple) else of}
        if method.method == "existing"
        else method.model_dump(mode="json", exclude={"learning_rate", "max_rank"})
        for name, method in study.arms.items()
    ]
    declared: dict[str, Any] = {
        "arms": sorted(arms, key=canonical_json),
        "margin": margin.model_dump(mode="json"),
        "metric": metric,
        "data": data.inputs.data,
        "looks": list(study.looks),
    }
    # left out as before they were configurable: defaults, one training set, and the protocol of that time
    later = {"cost": study.cost, "studies_per_test_set": study.studies_per_test_set}
    declared |= {name: value for name, value in later.items() if value != DEFAULTS[name].default}
    if study.protocol != "fixed":
        declared["protocol"] = study.protocol
    if study.secondary is not None:
        second = study.secondary.metric
        declared["secondary"] = {"metric": second, "margin": study.margin_in(second).model_dump(mode="json")}
    if study.select_by:
        declared["select_by"] = study.select_by
    if study.data.resample:
        declared["resample"] = True
    return declared


def changed(
    declared: Mapping[str, Any] | None, study: ResolvedStudy, data: DataSummary, records: Sequence[RunRecord]
) -> tuple[str, ...]:
    """Names of the declarations that differ from the stored ones.

    GONE if none are stored although `records` contain a test score of an arm: they are stored before the first one.
    """
    if declared is None:
        return GONE if any(record.spec.role == "confirm" for record in records) else ()
    now = declarations(study, data)
    return tuple(key for key in {**now, **declared} if declared.get(key) != now.get(key))


def changed_finding(keys: tuple[str, ...]) -> Finding:
    """The finding on changed declarations."""
    if keys == GONE:
        return Finding(
            id=CHANGED,
            severity="blocks",
            sentence="The declarations made before the first test score are missing, so this report is exploratory. "
            "Restore declarations.json in the study folder, or start a new study with other seeds (--out).",
            evidence="declarations.json is gone",
            forbids=WORDS,
        )
    return Finding(
        id=CHANGED,
        severity="blocks",
        sentence="Declarations were changed after the first test score, so this report is exploratory. "
        "Test the new question in a new study folder (--out) with another `seed`.",
        evidence="changed: " + ", ".join(keys),
        forbids=WORDS,
    )


def as_exploratory(verdict: Verdict, finding: Finding) -> Verdict:
    """The verdict without its outcome; its interval stays."""
    held = hold_back(verdict, [finding])
    return held.replace(reason="declarations changed")
