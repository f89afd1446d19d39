"""Withhold verdicts that a blocking finding forbids: the only place where findings meet verdicts."""

from collections.abc import Sequence

from tunewise.desk.fairness.finding import WORDS, Finding
from tunewise.desk.statistics.verdict import Verdict

# Reasons that a verdict already gives for what these findings report. Its own sentence is then more specific.
SAID_BY_THE_VERDICT = {"optimum not bracketed": "optimum-at-edge", "units": "few-units", "headroom": "headroom"}


def hold_back(verdict: Verdict, findings: Sequence[Finding]) -> Verdict:
    """The verdict as it may be shown: inconclusive, with the rules named, if a finding forbids its outcome.

    Every output takes its outcome from the verdict, so what is withheld here is shown nowhere. The figures stay.
    """
    if verdict.secondary is not None:
        verdict = verdict.replace(secondary=hold_back(verdict.secondary, findings))
    concerned = [finding for finding in findings if finding.concerns(verdict.arm, verdict.against)]
    if any("as good" in finding.forbids for finding in concerned):
        verdict = verdict.replace(smallest_margin_as_good=None)
    forbidding = [f for f in concerned if set(f.forbids) >= set(WORDS) or verdict.outcome in f.forbids]
    if not forbidding:
        leans_on_worse = verdict.remark is not None and "worse" in verdict.remark
        is_forbidden = any("worse" in finding.forbids for finding in concerned)
        return verdict.replace(remark=None) if leans_on_worse and is_forbidden else verdict
    ids = tuple(dict.fromkeys(finding.id for finding in forbidding))
    said = verdict.reason is not None and ids == (SAID_BY_THE_VERDICT.get(verdict.reason),)
    reason = verdict.reason if said else "blocked"
    # more seeds would not remove the block, so no number of seeds is suggested
    held = {"outcome": "undecided", "remark": None, "lean": None, "would_decide": None, "chance_at_last": None}
    return verdict.replace(**held, reason=reason, blocked_by=ids)
