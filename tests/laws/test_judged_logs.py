"""Laws 62 and 63: logs of others are judged as our own runs are, and only items that belong together are compared."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from desk.conftest import write_study
from tunewise.commands.judge import judge
from tunewise.desk.judge.view import JudgeReport
from tunewise.desk.metrics.scores import Scores
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.study.state import StudyState
from tunewise.storage.ledger import Ledger

TASK = "our_task"
STUDIES: dict[str, dict[str, Any]] = {
    "nll": {"study": {"looks": [3], "margin": "0.1"}},
    "accuracy": {"study": {"looks": [3], "task": "classify", "margin": "5pp"}, "data": {"task": "classify"}},
}


def rows_of(scores: Scores, metric: str) -> Iterable[dict[str, Any]]:
    """The lines that lm-evaluation-harness would write for these scores, in an order of its own."""
    for place in random.Random(scores.nll.sum()).sample(range(len(scores.examples)), len(scores.examples)):
        is_right = float(scores.labels[place] == scores.predictions[place])
        pair = [-float(scores.nll[place]), int(scores.num_tokens[place])]
        yield {
            "doc_id": str(scores.examples[place]),
            "doc": {"document": str(scores.units[place])},
            "prompt_hash": f"hash of {scores.examples[place]}",
            "filter": "none",
            "metrics": ["acc" if metric == "accuracy" else "word_perplexity"],
            **({"acc": is_right} if metric == "accuracy" else {"word_perplexity": pair}),
        }


def write_log(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"samples_{TASK}_2026-11-30T10-00-00.000001.jsonl").write_text(text)
    return folder


def exported(ledger: Ledger, folder: Path, metric: str) -> dict[str, list[Path]]:
    """Arm -> the folder of the log of each confirmed run."""
    state = StudyState.read(ledger)
    return {
        arm: [
            write_log(folder / arm / f"seed-{run.spec.seed}", rows_of(scores, metric))
            for run, scores in zip(runs, state.scores(runs), strict=True)
        ]
        for arm, runs in state.confirmed.items()
        if arm in (state.full, *state.study.compared_arms)
    }


@pytest.mark.parametrize("metric", STUDIES)
def test_law_62_logs_of_a_study_get_the_verdict_of_its_report(tmp_path: Path, metric: str) -> None:
    ledger = write_study(tmp_path / "study", **STUDIES[metric])
    report, logs = build_report(ledger), exported(ledger, tmp_path / "logs", metric)
    for arm, paths in logs.items():
        paths.sort(reverse=arm != "full")  # runs are paired by seed, not by the order in which they are named
    judged = judge(logs, margin=STUDIES[metric]["study"]["margin"], unit="document")
    expected = {verdict.arm: verdict for verdict in report.verdicts if verdict.arm in logs}
    assert expected.keys() == logs.keys() - {"full"} == {verdict.arm for verdict in judged.verdicts}
    for verdict in judged.verdicts:
        own = expected[verdict.arm]
        assert verdict.seeds == "paired"
        assert (verdict.outcome, verdict.remark, verdict.num_compared) == (own.outcome, own.remark, own.num_compared)
        assert (verdict.num_seeds, verdict.num_units, verdict.num_rows) == (own.num_seeds, own.num_units, own.num_rows)
        for name in ("difference", "low", "high", "confidence", "standard_error", "degrees_of_freedom"):
            assert getattr(verdict, name) == pytest.approx(getattr(own, name), rel=1e-9, abs=1e-12), name
        assert own.outcome != "undecided", "so that a word is compared"


def rows(number: int, seed: int, shift: float = 0.0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "doc_id": place,
            "doc": {"question": f"question {place}"},
            "prompt_hash": f"h{place}",
            "metrics": ["acc"],
            "acc": float(rng.random() < 0.6 + shift),
        }
        for place in range(number)
    ]


def of_logs(folder: Path, full: list[dict[str, Any]], lora: list[dict[str, Any]]) -> JudgeReport:
    return judge({"full": [write_log(folder / "full", full)], "lora": [write_log(folder / "lora", lora)]})


def test_law_63_neither_the_order_of_a_log_nor_what_does_not_pair_changes_a_verdict(tmp_path: Path) -> None:
    full, lora = rows(200, 1), rows(200, 2, -0.1)
    one = of_logs(tmp_path / "a", full, lora)
    extra = [{**row, "doc_id": row["doc_id"] + 1000} for row in rows(7, 3)]
    shuffled = random.Random(0).sample([*lora, *extra], 207)
    other = of_logs(tmp_path / "b", full, shuffled)
    assert one.verdicts[0].model_dump(exclude={"sentence"}) == other.verdicts[0].model_dump(exclude={"sentence"})
    assert one.flips == other.flips
    assert one.findings != other.findings
    (unpaired,) = (finding for finding in other.findings if finding.id == "unpaired-items")
    assert "7 items of lora" in unpaired.sentence
    assert "200 items paired" in unpaired.evidence


def test_law_63_the_sign_turns_if_the_arms_do(tmp_path: Path) -> None:
    full, lora = rows(200, 1), rows(200, 2, -0.1)
    one, other = of_logs(tmp_path / "a", full, lora), of_logs(tmp_path / "b", lora, full)
    mine, theirs = one.verdicts[0], other.verdicts[0]
    assert mine.difference == -theirs.difference != 0
    assert (mine.low, mine.high) == pytest.approx((-theirs.high, -theirs.low))  # type: ignore[operator]
    assert (one.flips[0].num_won, one.flips[0].num_lost) == (other.flips[0].num_lost, other.flips[0].num_won)
