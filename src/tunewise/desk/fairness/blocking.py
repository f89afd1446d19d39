"""How findings that block keep a word from being said: the one place where they meet the verdicts."""

from collections.abc import Iterable

from tunewise.desk.fairness.finding import WORDS, Finding
from tunewise.desk.statistics.verdict import Verdict

# What a verdict by itself gives as its reason where these findings say the same; its sentence then tells more.
SAID_BY_THE_VERDICT = {"optimum not bracketed": "optimum-at-edge", "units": "few-units", "headroom": "headroom"}


def hold_back(verdict: Verdict, findings: Iterable[Finding]) -> Verdict:
    """The verdict as it may be shown: undecided, and the rules named, where a finding forbids its word.

    Every output reads its words from the verdict, so what is held back here is shown nowhere. The figures stay.
    """
    concerned = [finding for finding in findings if finding.concerns(verdict.arm, verdict.against)]
    forbidding = [f for f in concerned if set(f.forbids) >= set(WORDS) or verdict.outcome in f.forbids]
    if not forbidding:
        leans_on_worse = verdict.remark is not None and "worse" in verdict.remark
        is_forbidden = any("worse" in finding.forbids for finding in concerned)
        return verdict.replace(remark=None) if leans_on_worse and is_forbidden else verdict
    ids = tuple(dict.fromkeys(finding.id for finding in forbidding))
    said = verdict.reason is not None and ids == (SAID_BY_THE_VERDICT.get(verdict.reason),)
    reason = verdict.reason if said else "blocked"
    # more seeds would not lift what forbids a word, so nothing is said of how many it takes
    held = {"outcome": "undecided", "remark": None, "lean": None, "would_decide": None}
    return verdict.replace(**held, reason=reason, blocked_by=ids)
