"""Judging logs: pairing, the intervals of seeds that are not paired and of fixed checkpoints, means over tasks."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from typer.testing import CliRunner, Result

from tunewise.cli.app import app
from tunewise.cli.judge import repeated
from tunewise.commands.judge import judge, write_judgment
from tunewise.desk.judge.contrasts import SummedContrast
from tunewise.desk.judge.means import by_tasks, of_tasks
from tunewise.desk.judge.verdicts import items_needed, matched
from tunewise.desk.judge.view import JudgeReport
from tunewise.desk.statistics.intervals import two_way_interval
from tunewise.desk.statistics.paired import Contrast
from tunewise.desk.statistics.spread import summed_spread, table_spread
from tunewise.errors import DataError
from tunewise.inputs.logs.find import read_arm
from tunewise.inputs.logs.log import RunLog

REAL = Path(__file__).parent / "lm_eval"  # `lm_eval --limit 12 --log_samples` on the bundled base, results shortened


def contrast(*tables: np.ndarray) -> SummedContrast:
    units = np.array([str(place) for place in range(tables[0].shape[1])], dtype=object)
    return SummedContrast(sum(float(of.mean()) for of in tables), tables[0], units, others=tables[1:])


# --- the intervals


@pytest.mark.parametrize("shares", [(0, 0, 1), (1, 0, 1), (0.1, 1, 0.3), (0, 1, 0)])
@pytest.mark.parametrize("shape", [(3, 20), (5, 100), (10, 7)])
def test_the_sum_of_one_table_is_that_table(shape: tuple[int, int], shares: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(sum(shape))
    seed, unit, rest = shares
    table = seed * rng.standard_normal((shape[0], 1)) + unit * rng.exponential(size=(1, shape[1]))
    table = table + rest * rng.standard_normal(shape)
    one, other = table_spread(table), summed_spread([table])
    for name in ("variance", "freedom", "shift", "bend", "stretch_below", "stretch_above"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-12)


def test_of_fixed_runs_it_is_the_paired_t_over_units() -> None:
    rng = np.random.default_rng(4)
    half = rng.standard_normal(50)
    arm, full = 0.3 + np.concatenate([half, -half]), np.full(100, 0.2)  # symmetric: no correction for a tail
    found = contrast((arm - full)[None]).interval(0.95)
    expected = stats.ttest_rel(arm, full)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.degrees_of_freedom == expected.df == 99
    assert 2 * contrast((full - arm)[None]).probability_of_negative() == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("counts", [(5, 3), (3, 3), (10, 4)])
def test_where_only_seeds_vary_it_is_welchs_interval(counts: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(counts))
    arm, full = (scale * rng.standard_normal(count) for scale, count in zip((1.0, 3.0), counts, strict=True))
    columns = np.ones((1, 12))
    found = contrast(arm[:, None] * columns, -full[:, None] * columns).interval(0.95)
    expected = stats.ttest_ind(arm, full, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.degrees_of_freedom == pytest.approx(expected.df)


def test_mcnemar_agrees_on_two_checkpoints_with_many_changes() -> None:
    """McNemar's test is about the discordant items alone; pseudo-units make ours a little stricter."""
    for lost, won in ((60, 100), (95, 100), (40, 90)):
        values = np.concatenate([np.full(lost, -1.0), np.full(won, 1.0), np.zeros(800), [1.0, -1.0]])
        ours = 2 * contrast(values[None]).probability_of_positive()
        mcnemar = float(stats.chi2.sf((won - lost) ** 2 / (won + lost), 1))
        assert mcnemar < ours < 1.35 * mcnemar + 0.01


def test_an_end_and_its_p_value_agree() -> None:
    rng = np.random.default_rng(8)
    tables = rng.exponential(size=(5, 60)) + 0.1, -rng.exponential(size=(3, 60))
    for sign in (1, -1):
        of = contrast(*(sign * table for table in tables))
        p = of.probability_of_negative()
        if p < 0.5:
            assert of.interval(1 - 2 * p).high == pytest.approx(0, abs=1e-9)


def test_the_mean_of_tasks_is_the_mean_of_their_means_with_their_variances() -> None:
    rng = np.random.default_rng(2)
    tables = [5 * place + rng.standard_normal((1, size)) for place, size in enumerate((40, 90, 400))]
    found = of_tasks(tables)
    assert found.mean() == pytest.approx(np.mean([table.mean() for table in tables]))
    expected = np.mean([table.var(ddof=1) / table.shape[1] for table in tables]) / 3
    assert summed_spread([found]).variance == pytest.approx(expected)
    drawn = [5 * place + rng.standard_normal((3, size)) for place, size in enumerate((40, 90, 400))]
    assert of_tasks(drawn).mean(axis=1) == pytest.approx(
        np.mean([table.mean(axis=1) - table.mean() for table in drawn], axis=0) + np.mean([t.mean() for t in drawn])
    )
    assert by_tasks(drawn).tolist() == [[table[seed].mean() for table in drawn] for seed in range(3)]


def test_the_items_needed_would_be_enough() -> None:
    error, number, margin = 0.02, 300, 0.01
    found = items_needed(error, number, margin, 0.025)
    assert found is not None
    rng = np.random.default_rng(3)
    means = rng.standard_normal(4000) * error * np.sqrt(number / found)
    reach = stats.t.ppf(0.975, found - 1) * error * np.sqrt(number / found)
    assert np.mean(means + reach < margin) == pytest.approx(0.8, abs=0.03)
    assert items_needed(1e6, 10, 1e-6, 0.025) is None


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_beside_runs_that_do_not_differ_the_chance_at_the_last_look_is_that_of_one_table(sign: float) -> None:
    rng = np.random.default_rng(8)
    x = sign * 0.03 + 0.05 * rng.standard_normal((4, 1)) + 0.3 * rng.standard_normal((1, 60))
    x = x + 0.1 * rng.standard_normal((4, 60))
    both, one = contrast(x, np.zeros((4, 60))), Contrast(float(x.mean()), x, contrast(x).units)
    for seeds in (5, 10):
        assert both.chance_of_negative(seeds, 0.025) == pytest.approx(one.chance_of_negative(seeds, 0.025))
        assert both.chance_of_positive(seeds, 0.025) == pytest.approx(one.chance_of_positive(seeds, 0.025))
    assert both.over_units(0.95).as_estimate() == one.over_units(0.95).as_estimate()
    fewer = replace(both, most_freedom=2.0).interval()
    assert fewer.degrees_of_freedom == 2
    assert 0 < both.chance_of_negative(10, 0.025) < 1


def test_of_two_arms_the_chance_is_about_that_of_pairs() -> None:
    rng = np.random.default_rng(9)
    units = 0.3 * rng.standard_normal((1, 200))
    x, y = (0.05 * rng.standard_normal((40, 1)) + 0.1 * rng.standard_normal((40, 200)) + units for _ in range(2))
    x = x - 0.012 + 0.05 * rng.standard_normal((1, 200))
    paired = Contrast(float((x - y).mean()), x - y, contrast(x).units)
    assert contrast(x, -y).chance_of_negative(60, 0.025) == pytest.approx(paired.chance_of_negative(60, 0.025), abs=0.1)


# --- which runs belong together


def runs(*seeds: str | None) -> list[RunLog]:
    return [RunLog(name=str(place), seed=seed, tasks={}) for place, seed in enumerate(seeds)]


def test_seeds_are_paired_only_if_both_arms_have_the_same_ones() -> None:
    assert matched(runs("3", "1", "2"), runs("1", "2", "3")) == ("paired", (1, 2, 0))
    assert matched(runs("1", "2", "4"), runs("1", "2", "3")).seeds == "apart"
    assert matched(runs("1", "2", "3"), runs("1", "2", "3", "4", "5")).seeds == "apart"
    assert matched(runs(None, None, None), runs(None, None, None)).seeds == "apart"
    assert matched(runs("1", "2"), runs("1", "2", "3")).seeds == "fixed"


def table(path: Path, scores: Sequence[float], **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"q{place}", "score": score, **columns} for place, score in enumerate(scores)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join(map(str, row.values())) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores(seed: int, number: int = 300, share: float = 0.6) -> list[float]:
    difficulty = np.random.default_rng(0).random(number)
    return [float(x) for x in (difficulty + 0.3 * np.random.default_rng(seed).standard_normal(number) < share)]


def test_the_same_scores_get_the_same_verdict_from_every_format(tmp_path: Path) -> None:
    found = []
    for suffix in ("csv", "jsonl", "parquet"):
        full, lora = (table(tmp_path / f"{arm}.{suffix}", scores(seed)) for seed, arm in enumerate(("full", "lora")))
        found.append(judge({"full": [full], "lora": [lora]}).verdicts[0])
    assert found[0] == found[1] == found[2]
    assert found[0].seeds == "fixed"
    assert "these very checkpoints" in found[0].sentence


def test_one_file_may_hold_all_arms_seeds_and_tasks(tmp_path: Path) -> None:
    rows = [
        {"id": place, "score": score, "arm": arm, "seed": seed, "task": task}
        for number, (arm, seed, task) in enumerate(
            (arm, seed, task) for arm in ("full", "lora") for seed in (7, 8, 9) for task in ("sums", "words")
        )
        for place, score in enumerate(scores(number, 60))
    ]
    path = tmp_path / "all.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    report = judge({"full": [path], "lora": [path]}, margin="20pp")
    assert [verdict.tasks for verdict in report.verdicts] == [("sums", "words"), ("sums",), ("words",)]
    assert {verdict.seeds for verdict in report.verdicts} == {"paired"}
    mean, *of_tasks = report.verdicts
    assert mean.difference == pytest.approx(np.mean([verdict.difference for verdict in of_tasks]))
    assert not mean.are_new_tasks
    assert "these tasks only" in mean.sentence
    assert {verdict.num_compared for verdict in of_tasks} == {2}, "two tasks share one error"


def test_from_ten_tasks_on_tasks_are_the_units(tmp_path: Path) -> None:
    def folder(arm: str, seed: int) -> Path:
        rows = [
            {"id": place, "score": score, "task": f"task {task}"}
            for task in range(12)
            for place, score in enumerate(scores(100 * seed + task, 50))
        ]
        path = tmp_path / f"{arm}-{seed}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    report = judge({"full": [folder("full", s) for s in (1, 2, 3)], "lora": [folder("lora", s) for s in (1, 2, 3)]})
    mean, *of_tasks = report.verdicts
    assert (mean.are_new_tasks, mean.num_units, len(of_tasks)) == (True, 12, 12)
    table_ST = np.array([[verdict.difference for verdict in of_tasks]])
    assert mean.difference == pytest.approx(table_ST.mean())
    assert report.headline.startswith("New tasks like these 12: lora ")


def test_unequal_numbers_of_seeds_are_judged_without_pairs(tmp_path: Path) -> None:
    full = [table(tmp_path / f"full-{seed}.csv", scores(seed)) for seed in range(5)]
    lora = [table(tmp_path / f"lora-{seed}.csv", scores(seed + 50)) for seed in range(3)]
    (verdict,) = judge({"full": full, "lora": lora}, margin="30pp").verdicts
    assert (verdict.seeds, verdict.num_runs) == ("apart", {"lora": 3, "full": 5})
    means = [np.mean([scores(seed) for seed in seeds]) for seeds in (range(50, 53), range(5))]
    assert verdict.difference == pytest.approx(means[0] - means[1])
    assert verdict.outcome == "as good"
    paired = two_way_interval(np.array([scores(s + 50) for s in range(3)]) - np.array([scores(s) for s in range(3)]))
    assert verdict.degrees_of_freedom != pytest.approx(paired.degrees_of_freedom)


def test_copies_of_a_run_are_named_because_they_are_not_seeds(tmp_path: Path) -> None:
    full = [table(tmp_path / f"full-{seed}.csv", scores(seed)) for seed in range(3)]
    lora = [table(tmp_path / f"lora-{seed}.csv", scores(50 if seed < 2 else 51)) for seed in range(3)]
    (copies,) = [found for found in judge({"full": full, "lora": lora}).findings if found.id == "same-scores"]
    assert copies.arms == ("lora",)
    assert copies.evidence == f"{lora[0]}, {lora[1]}"


def test_only_a_judgment_is_replaced_by_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "judge.html").write_text("mine")
    refused = call(tmp_path)
    assert "holds other files than those of a judgment: judge.html" in str(refused.exception)
    assert (tmp_path / "out" / "judge.html").read_text() == "mine"
    (tmp_path / "out" / "judge.html").unlink()
    assert [call(tmp_path).exit_code for _ in range(2)] == [0, 0]


# --- lm-evaluation-harness


def test_a_real_log_gives_the_means_that_its_results_file_states() -> None:
    results = json.loads(next(REAL.glob("results_*.json")).read_text())["results"]
    for metric, column in (("acc", "acc,none"), ("acc_norm", "acc_norm,none")):
        (run,) = read_arm([REAL], "full", [metric, "exact_match", "bits_per_byte"], None, False)
        assert run.tasks["local_sums"].numerators.mean() == pytest.approx(results["local_sums"][column])
    bits = run.tasks["local_ppl"]
    assert bits.weights is not None
    assert bits.numerators.sum() / bits.weights.sum() == pytest.approx(results["local_ppl"]["bits_per_byte,none"])
    assert not bits.higher_is_better
    (other,) = read_arm([REAL], "full", ["acc", "exact_match,flexible-extract", "word_perplexity"], None, False)
    words, answers = other.tasks["local_ppl"], other.tasks["local_answers"]
    assert words.weights is not None
    perplexity = np.exp(words.numerators.sum() / words.weights.sum())
    assert perplexity == pytest.approx(results["local_ppl"]["word_perplexity,none"])
    assert answers.metric == "exact_match,flexible-extract"
    assert len(answers.ids) == len(bits.ids), "one line for each filter"
    assert answers.facts == {"version": 2.0, "number of shots": 0}


def test_a_log_judged_against_itself_is_identical_and_says_that_the_models_are_one(tmp_path: Path) -> None:
    report = judge(
        {"full": [REAL], "lora": [copy_of(tmp_path)]}, metrics=["bits_per_byte", "acc", "exact_match"], margin="0.01"
    )
    assert {verdict.reason for verdict in report.verdicts} <= {"identical", "units"}
    assert "same-model" in {finding.id for finding in report.findings}
    assert "no-mean" in {finding.id for finding in report.findings}


def copy_of(folder: Path) -> Path:
    to = folder / "copy"
    to.mkdir()
    for path in REAL.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_link_out_of_a_folder_of_logs_is_refused(tmp_path: Path) -> None:
    elsewhere = table(tmp_path / "elsewhere" / "secret.csv", [1.0, 0.0])
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.csv").symlink_to(elsewhere)
    with pytest.raises(DataError, match="is a link to .*secret.csv, outside"):
        judge({"full": [tmp_path / "logs"], "lora": [elsewhere]})


# --- what a user sees


def test_items_that_changed_come_with_their_texts_and_no_text_is_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m"
    full = table(tmp_path / "full.jsonl", [1.0] * 20 + [0.0] * 20, prompt=hostile, target="t")
    lora = table(tmp_path / "lora.jsonl", [0.0] * 5 + [1.0] * 15 + [0.0] * 20, prompt=hostile, target="t")
    report = judge({"full": [full], "lora": [lora]})
    (flips,) = report.flips
    assert (flips.num_lost, flips.num_won, flips.num_equal) == (5, 0, 35)
    assert [item.id for item in flips.lost] == [f"q{place}" for place in range(5)]
    assert {item.prompt for item in flips.lost} == {hostile}
    write_judgment(report, tmp_path / "out")
    page = (tmp_path / "out" / "judge.html").read_text()
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page
    assert JudgeReport.model_validate_json((tmp_path / "out" / "judge.json").read_text()) == report


def test_options_take_several_paths() -> None:
    args = ["--full", "a", "b", "--margin", "1pp", "--arm", "lora=c", "d", "dora=e", "--arm", "lora"]
    expected = ["--full", "a", "--full", "b", "--margin", "1pp"]
    expected += ["--arm", "lora=c", "--arm", "lora=d", "--arm", "dora=e", "--arm", "lora"]
    assert list(repeated(args)) == expected


def call(folder: Path, *more: str) -> Result:
    full, lora = (table(folder / f"{arm}.csv", scores(seed)) for seed, arm in enumerate(("full", "lora")))
    args = ["judge", "--full", str(full), "--arm", f"lora={lora}", "--out", str(folder / "out"), *more]
    return CliRunner().invoke(app, args)


def test_a_gate_is_closed_for_a_verdict_that_was_named(tmp_path: Path) -> None:
    closed = call(tmp_path, "--fail-on", "not-as-good", "--junit", str(tmp_path / "j.xml"))
    assert closed.exit_code == 4, closed.output
    assert "gate --fail-on not-as-good: failed. lora: inconclusive." in closed.output
    assert 'failures="1"' in (tmp_path / "j.xml").read_text()
    assert call(tmp_path, "--fail-on", "not-as-good", "--margin", "30pp", "--arm", "lora").exit_code == 0
    assert call(tmp_path).exit_code == 0
    assert (tmp_path / "out" / "judge.html").is_file()
