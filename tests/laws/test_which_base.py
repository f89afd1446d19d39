"""Law 68: bases are compared on the same rows, whatever their tokens, each with its best method."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from desk import conftest as fake
from tunewise.cli.app import app
from tunewise.desk.metrics.metrics import compute
from tunewise.desk.report.across import BaseVerdict
from tunewise.desk.report.bases import between_bases
from tunewise.desk.report.compose.build import build_report
from tunewise.desk.study.state import StudyState
from tunewise.errors import StudyError
from tunewise.storage.ledger import Ledger

INPUTS = fake.data_summary().inputs.model_dump()


def study_of(folder: Path, letter: str, seed: int = 0, **changes: Any) -> Ledger:
    """A study of the base of this letter, with a tokenizer of its own."""
    inputs = {**INPUTS, **dict.fromkeys(("base", "tokenizer", "data"), letter * 64)}
    data = {"inputs": inputs, "test_set": "f" * 64, **changes.pop("data", {})}
    study = {"model": f"models/{letter}", "seed": seed, **changes.pop("study", {})}
    return fake.write_study(folder / letter, study=study, data=data, **changes)


def verdict_between(*ledgers: Ledger) -> BaseVerdict:
    named = {ledger.folder.name: ledger for ledger in ledgers}
    return between_bases(named, {name: build_report(ledger) for name, ledger in named.items()}).bases[0]


def with_tokens(patch: pytest.MonkeyPatch, factor: int) -> None:
    """As if a tokenizer made so many times as many tokens of every text."""
    add = fake.FakeLab._add_row

    def added(lab: Any, columns: dict[str, list[Any]], *of: Any) -> None:
        add(lab, columns, *of)
        columns["num_tokens"][-1] *= factor

    patch.setattr(fake.FakeLab, "_add_row", added)


def test_law_68_other_tokens_change_no_verdict_between_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 68: the same loss of the same texts in twice as many tokens is no difference."""
    first = study_of(tmp_path, "a")
    monkeypatch.setitem(fake.GAINS, "lora-r16-all", 0.3)
    worse = study_of(tmp_path, "w", seed=1)
    with monkeypatch.context() as patch:
        with_tokens(patch, 2)
        doubled = study_of(tmp_path, "d", seed=1)
    one, other = verdict_between(first, worse), verdict_between(first, doubled)
    for name in ("difference", "low", "high", "outcome", "arm", "metric"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.metric == "bits_per_byte"
    states = [StudyState.read(ledger) for ledger in (worse, doubled)]
    losses = [compute("nll", state.scores(state.confirmed["full"])[0]) for state in states]
    assert losses[0] == pytest.approx(2 * losses[1]), "per token, the same texts cost half"


def test_law_68_each_base_comes_with_its_best_method_on_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 68: the difference is that of the means; the studies turned, its sign turns."""
    first = study_of(tmp_path, "a")
    for arm in ("full", "lora-r8", "lora-r16-all"):
        monkeypatch.setitem(fake.GAINS, arm, fake.GAINS[arm] - (0.05 if arm == "lora-r8" else 0.2))
    worse = study_of(tmp_path, "b", seed=1)
    verdict, turned = verdict_between(first, worse), verdict_between(worse, first)
    assert (verdict.against_arm, verdict.arm) == ("lora-r16-all", "lora-r8")
    assert (verdict.outcome, turned.outcome) == ("worse", "better")
    means = [
        np.mean([compute("bits_per_byte", scores) for scores in state.scores(state.confirmed[arm])])
        for state, arm in ((StudyState.read(worse), "lora-r8"), (StudyState.read(first), "lora-r16-all"))
    ]
    assert verdict.difference == pytest.approx(means[0] - means[1]) == pytest.approx(-turned.difference)
    assert (verdict.low, verdict.high) == pytest.approx((-turned.high, -turned.low))  # type: ignore[operator]
    assert "models/b with lora-r8 is worse than models/a with lora-r16-all" in verdict.sentence
    shown = CliRunner().invoke(app, ["report", str(first.folder), str(worse.folder)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "models/b with lora-r8 is worse than" in " ".join(shown.output.split())


def test_studies_that_do_not_answer_the_question_are_refused_by_name(tmp_path: Path) -> None:
    first = study_of(tmp_path, "a")
    for letter, changes, words in (
        ("b", {"data": {"test_set": "e" * 64}}, r"differ in test set \(a: ffffffff, b: eeeeeeee\)"),
        ("c", {"max_runs": 5}, "c is not complete"),
        ("d", {"study": {"primary": "bits_per_byte", "margin": "0.1"}}, r"metric \(a: nll, d: bits_per_byte\)"),
    ):
        with pytest.raises(StudyError, match=words):
            verdict_between(first, study_of(tmp_path, letter, **changes))  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="did not record its test set"):
        verdict_between(*(study_of(tmp_path / "old", letter, data={"test_set": None}) for letter in "ab"))


def test_a_base_whose_text_was_truncated_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, add = study_of(tmp_path, "a"), fake.FakeLab._add_row

    def cut(lab: Any, columns: dict[str, list[Any]], *of: Any) -> None:
        add(lab, columns, *of)
        columns["num_bytes"][-1] -= columns["num_bytes"][-1] // 2

    monkeypatch.setattr(fake.FakeLab, "_add_row", cut)
    with pytest.raises(StudyError, match=r"b and a were not scored on the same text .* truncated"):
        verdict_between(first, study_of(tmp_path, "b"))


def test_what_a_rule_blocks_gets_no_verdict(tmp_path: Path) -> None:
    arms = {"full": {"method": "full", "rates": [1e-3]}, "lora-r8": {"method": "lora", "rates": [1e-3]}}
    first = study_of(tmp_path, "a")
    verdict = verdict_between(first, study_of(tmp_path, "b", study={"arms": arms}))
    assert verdict.outcome == "undecided"
    assert "unequal-tuning-rule" in verdict.withheld_by[0]
    assert "withheld" in verdict.sentence
    assert "better" not in verdict.sentence
    assert "worse" not in verdict.sentence
