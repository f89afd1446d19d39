"""Metrics are functions of sums over examples, and scores.parquet is read as it was written or refused."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewise.desk.metrics import metrics as metrics_module
from tunewise.desk.metrics.metrics import (
    METRICS,
    Metric,
    check_asked,
    compute,
    metrics_of,
    primary_metric,
    register_metric,
)
from tunewise.desk.metrics.scores import Scores, read_scores
from tunewise.desk.statistics.paired import PairedRuns, mean_interval
from tunewise.errors import SpecError, StudyError
from tunewise.records import SCORES_SCHEMA
from tunewise.spec import StudySpec

SIZES = {"exact_match": 1, "matches": 1, "bleu": 10, "chrf": 18, "rouge_l": 1}  # statistics a row


def text_rows(num_rows: int, seed: int, split: str = "test") -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "split": split,
            "example": f"row-{i:04d}",
            "unit": f"unit-{i // 2}",
            "nll": float(rng.gamma(2.0, 5.0)),
            "num_tokens": int(rng.integers(1, 40)),
            "num_bytes": int(rng.integers(1, 160)),
            "label": -1,
            "prediction": -1,
            "class_log_probabilities": [],
        }
        for i in range(num_rows)
    ]


def labelled_rows(labels: list[int], predictions: list[int]) -> list[dict]:
    return [
        {
            "split": "test",
            "example": f"row-{i:04d}",
            "unit": f"row-{i:04d}",
            "nll": 0.5 + i,
            "num_tokens": 1,
            "num_bytes": 0,
            "label": label,
            "prediction": prediction,
            "class_log_probabilities": [-0.5 - i, -1.0],
        }
        for i, (label, prediction) in enumerate(zip(labels, predictions, strict=True))
    ]


def write(folder: Path, rows: list[dict], schema: pa.Schema = SCORES_SCHEMA) -> Path:
    path = folder / "scores.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def scores_of(folder: Path, rows: list[dict]) -> Scores:
    return read_scores(write(folder, rows), "test")


def test_perplexity_is_exp_of_the_summed_nll_over_the_summed_tokens_of_a_plain_loop(tmp_path: Path):
    rows = text_rows(50, seed=1)
    nll, tokens = 0.0, 0
    for row in rows:
        nll += row["nll"]
        tokens += row["num_tokens"]
    scores = scores_of(tmp_path, rows)
    assert compute("nll", scores) == pytest.approx(nll / tokens, rel=1e-12)
    assert compute("perplexity", scores) == pytest.approx(math.exp(nll / tokens), rel=1e-12)
    mean_of_means = np.mean([row["nll"] / row["num_tokens"] for row in rows])
    assert compute("nll", scores) != pytest.approx(mean_of_means, rel=0.01)


def test_bits_per_byte_counts_all_nats_in_bits_over_all_bytes_of_a_plain_loop(tmp_path: Path):
    rows = text_rows(50, seed=2)
    bits, size = 0.0, 0
    for row in rows:
        bits += row["nll"] * math.log2(math.e)
        size += row["num_bytes"]
    assert compute("bits_per_byte", scores_of(tmp_path, rows)) == pytest.approx(bits / size, rel=1e-12)


def test_nll_of_a_classification_is_per_example(tmp_path: Path):
    assert compute("nll", scores_of(tmp_path, labelled_rows([0, 1, 1, 0], [0, 0, 0, 0]))) == pytest.approx(2.0)


def test_accuracy_is_the_share_of_rows_whose_prediction_is_the_label(tmp_path: Path):
    assert compute("accuracy", scores_of(tmp_path, labelled_rows([0, 1, 2, 2, 1], [0, 1, 1, 2, 1]))) == 0.8


def plain_macro_f1(labels: list[int], predictions: list[int]) -> float:
    values = []
    for c in sorted({*labels, *predictions}):
        hits = wrong = missed = 0
        for label, prediction in zip(labels, predictions, strict=True):
            hits += label == c and prediction == c
            wrong += label != c and prediction == c
            missed += label == c and prediction != c
        precision = hits / (hits + wrong) if hits + wrong else 0.0
        recall = hits / (hits + missed) if hits + missed else 0.0
        values.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_equals_precision_and_recall_counted_by_loops(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 5], 40).tolist()  # classes 3 and 4 never occur
    predictions = [y if rng.random() < 0.6 else int(rng.integers(0, 3)) for y in labels]
    value = compute("macro_f1", scores_of(tmp_path, labelled_rows(labels, predictions)))
    assert value == pytest.approx(plain_macro_f1(labels, predictions), rel=1e-12)


def test_a_class_that_is_only_predicted_has_an_f1_of_zero_and_counts(tmp_path: Path):
    assert compute("macro_f1", scores_of(tmp_path, labelled_rows([0, 0, 0], [0, 0, 1]))) == pytest.approx(0.8 / 2)


@pytest.mark.parametrize("name", METRICS)
def test_a_value_depends_neither_on_the_order_of_rows_nor_on_how_they_are_batched(tmp_path: Path, name: str):
    rng = np.random.default_rng(3)
    rows = labelled_rows(rng.integers(0, 3, 30).tolist(), rng.integers(0, 3, 30).tolist())
    for row in rows:
        row["num_bytes"] = int(rng.integers(1, 9))
        row |= {"generated": "x", "num_generated": int(rng.integers(0, 9)), "stopped": bool(rng.integers(0, 2))}
        row["statistics"] = [(name, rng.integers(1, 9, k).astype(float).tolist()) for name, k in SIZES.items()]
    scores = scores_of(tmp_path, rows)
    shuffled = scores_of(tmp_path, [rows[i] for i in rng.permutation(30)])
    assert compute(name, shuffled) == pytest.approx(compute(name, scores), rel=1e-12)
    sums = METRICS[name].sums(scores)
    by_batch = sums[:7].sum(axis=0) + sums[7:9].sum(axis=0) + sums[9:].sum(axis=0)
    assert float(METRICS[name].value(by_batch)) == pytest.approx(compute(name, scores), rel=1e-12)


def test_scores_come_back_sorted_by_example_with_every_column_in_its_row(tmp_path: Path):
    rows = labelled_rows([0, 1, 1], [1, 1, 0])
    scores = scores_of(tmp_path, rows[::-1])
    assert scores.examples.tolist() == [row["example"] for row in rows]
    assert scores.units.tolist() == [row["unit"] for row in rows]
    assert scores.nll.tolist() == [row["nll"] for row in rows]
    assert scores.labels.tolist() == [0, 1, 1]
    assert scores.predictions.tolist() == [1, 1, 0]
    assert scores.class_log_probabilities.tolist() == [row["class_log_probabilities"] for row in rows]


def test_only_the_rows_of_the_asked_split_are_read(tmp_path: Path):
    path = write(tmp_path, text_rows(4, seed=4, split="valid") + text_rows(6, seed=5))
    assert len(read_scores(path, "valid").examples) == 4
    assert read_scores(path, "test").class_log_probabilities.shape == (6, 0)


def test_an_absent_split_is_an_error_that_names_those_present(tmp_path: Path):
    path = write(tmp_path, text_rows(2, seed=6, split="valid"))
    with pytest.raises(StudyError, match="no scores of split 'test'; it holds: valid"):
        read_scores(path, "test")


def test_a_folder_whose_name_looks_like_a_column_changes_nothing(tmp_path: Path):
    folder = tmp_path / "unit=1"
    folder.mkdir()
    assert scores_of(folder, text_rows(2, seed=7)).units.tolist() == ["unit-0", "unit-0"]


def test_scores_that_cannot_be_trusted_are_refused(tmp_path: Path):
    with pytest.raises(StudyError, match="cannot read"):
        read_scores(tmp_path / "missing.parquet", "test")
    (tmp_path / "broken.parquet").write_bytes(b"not a table")
    with pytest.raises(StudyError, match="cannot read"):
        read_scores(tmp_path / "broken.parquet", "test")
    with pytest.raises(StudyError, match="lacks the columns nll"):
        read_scores(write(tmp_path, text_rows(2, seed=8), SCORES_SCHEMA.remove(3)), "test")
    twice = [*text_rows(3, seed=9), text_rows(1, seed=9)[0]]
    with pytest.raises(StudyError, match="scores an example twice"):
        scores_of(tmp_path, twice)
    with pytest.raises(StudyError, match="nll of example 'row-0001' is not a finite number"):
        scores_of(tmp_path, [row | {"nll": math.nan} if i == 1 else row for i, row in enumerate(text_rows(3, seed=1))])
    with pytest.raises(StudyError, match="rows without num_tokens"):
        scores_of(tmp_path, [row | {"num_tokens": None} for row in text_rows(3, seed=1)])
    uneven = labelled_rows([0, 1], [0, 1])
    uneven[0]["class_log_probabilities"] = [-1.0]
    with pytest.raises(StudyError, match="different numbers of class_log_probabilities"):
        scores_of(tmp_path, uneven)


def test_a_metric_that_the_rows_cannot_give_is_refused(tmp_path: Path):
    with pytest.raises(StudyError, match="needs a label in every row"):
        compute("accuracy", scores_of(tmp_path, text_rows(3, seed=1)))
    with pytest.raises(StudyError, match="per bytes of supervised text needs at least one"):
        compute("bits_per_byte", scores_of(tmp_path, labelled_rows([0], [0])))
    with pytest.raises(SpecError, match="Did you mean 'accuracy'"):
        compute("acuracy", scores_of(tmp_path, labelled_rows([0], [0])))


def test_a_perplexity_beyond_float64_is_infinite_and_nothing_warns(tmp_path: Path):
    rows = [row | {"nll": 1e6, "num_tokens": 1} for row in text_rows(3, seed=1)]
    with np.errstate(all="raise"):
        assert compute("perplexity", scores_of(tmp_path, rows)) == math.inf


def test_every_task_reports_its_metrics_and_judges_by_one_of_them():
    assert metrics_of("sft") == metrics_of("lm") == ("nll", "perplexity", "bits_per_byte")
    assert metrics_of("classify") == ("accuracy", "macro_f1", "mcc", "nll", "calibration_error")
    assert metrics_of("sft", ["bleu"]) == ("nll", "perplexity", "bits_per_byte", "bleu")
    assert [primary_metric(task) for task in ("sft", "lm", "classify")] == ["nll", "nll", "accuracy"]
    assert primary_metric("sft", "bleu") == "bleu"
    assert all(METRICS[name].name == name for name in METRICS)


# --- classes


def plain_mcc(labels: list[int], predictions: list[int]) -> float:
    """Correlation of indicator vectors over rows and classes, by its definition."""
    classes = sorted({*labels, *predictions})
    xs = np.array([[p == c for c in classes] for p in predictions], dtype=float)
    ys = np.array([[y == c for c in classes] for y in labels], dtype=float)

    def covariance(a: np.ndarray, b: np.ndarray) -> float:
        return float(sum(np.cov(a[:, k], b[:, k], bias=True)[0, 1] for k in range(len(classes))))

    return covariance(xs, ys) / math.sqrt(covariance(xs, xs) * covariance(ys, ys))


@pytest.mark.parametrize("seed", range(5))
def test_matthews_correlation_is_the_correlation_of_indicators(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 3], 40).tolist()
    predictions = [y if rng.random() < 0.5 else int(rng.integers(0, 4)) for y in labels]
    value = compute("mcc", scores_of(tmp_path, labelled_rows(labels, predictions)))
    assert value == pytest.approx(plain_mcc(labels, predictions), rel=1e-9)


def test_matthews_correlation_of_two_classes_worked_by_hand(tmp_path: Path):
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
    labels, predictions = [1] * 5 + [0] * 5, [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    expected = (3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6)
    scores = scores_of(tmp_path, labelled_rows(labels, predictions))
    assert compute("mcc", scores) == pytest.approx(expected, rel=1e-12)
    swapped = scores_of(tmp_path, labelled_rows(labels, [1 - p for p in labels]))
    assert compute("mcc", swapped) == -1
    assert compute("mcc", scores_of(tmp_path, labelled_rows(labels, [1] * 10))) == 0


def test_the_interval_of_a_correlation_may_reach_below_zero(tmp_path: Path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60).tolist()
    runs = [scores_of(tmp_path, labelled_rows(labels, rng.integers(0, 2, 60).tolist())) for _ in range(3)]
    summary = mean_interval("mcc", runs)
    assert summary.low is not None
    assert -1 <= summary.low < 0


def test_runs_that_predict_different_classes_are_compared_class_by_class(tmp_path: Path):
    """A run that never predicts the last class has as many sums as one that does."""
    rows = [labelled_rows([0, 1, 0, 1, 0], predictions) for predictions in ([0, 1, 1, 0, 0], [0, 1, 2, 1, 0])]
    for row in [row for of_run in rows for row in of_run]:
        row["class_log_probabilities"] = [-1.0, -1.1, -1.2]
    one, other = (scores_of(tmp_path, of_run) for of_run in rows)
    found = PairedRuns(METRICS["macro_f1"], {"a": [one], "b": [other]}).contrast({"a": 1, "b": -1})
    assert found.estimate == pytest.approx(compute("macro_f1", one) - compute("macro_f1", other))


def confident_rows(answers: list[tuple[float, bool]]) -> list[dict]:
    """Rows whose top class has this probability, and is right or not."""
    rows = labelled_rows([0 if right else 1 for _, right in answers], [0] * len(answers))
    for row, (top, _) in zip(rows, answers, strict=True):
        row["class_log_probabilities"] = [math.log(top), math.log(1 - top)]
    return rows


def test_calibration_error_is_the_gap_between_being_right_and_being_sure_worked_by_hand(tmp_path: Path):
    # 15 bins: 0.95 and 0.94 in (14/15, 1], 0.70 and 0.72 in (10/15, 11/15], 0.60 in (8/15, 9/15]
    answers = [(0.95, True), (0.94, False), (0.70, True), (0.72, True), (0.599, False)]
    expected = (abs(1 - 0.95 - 0.94) + abs(2 - 0.70 - 0.72) + 0.599) / 5
    assert compute("calibration_error", scores_of(tmp_path, confident_rows(answers))) == pytest.approx(expected)


def test_gaps_of_different_bins_do_not_cancel_and_those_of_one_bin_do(tmp_path: Path):
    one_bin = [(0.75, True)] * 3 + [(0.75, False)]
    assert compute("calibration_error", scores_of(tmp_path, confident_rows(one_bin))) == pytest.approx(0, abs=1e-12)
    two_bins = [(0.75, True)] * 4 + [(0.55, False)] * 4
    expected = (4 * 0.25 + 4 * 0.55) / 8
    assert compute("calibration_error", scores_of(tmp_path, confident_rows(two_bins))) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_equals_a_loop_over_bins(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    answers = [(float(rng.uniform(0.5, 1)), bool(rng.random() < 0.6)) for _ in range(60)]
    total = 0.0
    for b in range(15):
        inside = [(top, right) for top, right in answers if b / 15 < top <= (b + 1) / 15]
        if inside:
            confidence = sum(top for top, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / 60 * abs(accuracy - confidence)
    assert compute("calibration_error", scores_of(tmp_path, confident_rows(answers))) == pytest.approx(total, rel=1e-9)


# --- written text


def written(rows: list[dict], **columns: object) -> list[dict]:
    standard = {"generated": "x", "num_generated": 1, "stopped": True, "statistics": [("rouge_l", [0.5])]}
    return [row | standard | columns for row in rows]


def test_text_is_all_there_or_not_at_all(tmp_path: Path):
    rows = text_rows(4, seed=1)
    assert scores_of(tmp_path, rows).written is None
    with pytest.raises(StudyError, match="some rows are without generated, num_generated, stopped, statistics"):
        scores_of(tmp_path, rows[:2] + written(rows[2:]))
    with pytest.raises(StudyError, match="some rows are without stopped"):
        scores_of(tmp_path, written(rows[:2], stopped=None) + written(rows[2:]))
    with pytest.raises(StudyError, match="different statistics"):
        scores_of(tmp_path, written(rows[:2]) + written(rows[2:], statistics=[("bleu", [0.5])]))


def test_a_metric_of_text_that_was_not_counted_says_what_to_do(tmp_path: Path):
    rows = text_rows(4, seed=1)
    with pytest.raises(StudyError, match="List the metric under `metrics` in the study"):
        compute("length", scores_of(tmp_path, rows))
    with pytest.raises(StudyError, match="nothing was counted for 'bleu', only for: rouge_l"):
        compute("bleu", scores_of(tmp_path, written(rows)))


# --- asked for, and own ones


def study(**changes: object) -> StudySpec:
    content = {"name": "s", "data": {"train": "t.jsonl"}, "arms": {"full": {"method": "full"}}}
    return StudySpec.model_validate({**content, **changes})


def test_a_missing_library_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch):
    asked = study(metrics=[{"name": "bleu"}, {"name": "length"}])
    check_asked(asked)
    monkeypatch.setattr(metrics_module, "_is_installed", lambda library: library != "sacrebleu")
    with pytest.raises(SpecError, match=r"bleu needs the library sacrebleu.*pip install 'tunewise\[metrics\]'"):
        check_asked(asked)
    check_asked(study(metrics=[{"name": "rouge_l"}, {"name": "exact_match"}]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "lm", "metrics": [{"name": "bleu"}]}, "work only with task sft; this study's task is lm"),
        ({"task": "classify", "metrics": [{"name": "length"}]}, "this study's task is classify"),
        ({"task": "sft", "primary": "accuracy"}, "a study of task sft has no 'accuracy'. Allowed: nll, "),
        ({"task": "classify", "primary": "bits_per_byte", "margin": "0.1"}, "Allowed: accuracy, macro_f1, mcc, nll"),
        (
            {"task": "lm", "secondary": {"metric": "accuracy", "margin": "1pp"}},
            r"secondary.metric: a study of task lm has no 'accuracy'. Allowed: nll, ",
        ),
        (
            {"task": "classify", "secondary": {"metric": "accuracy", "margin": "1pp"}},
            "accuracy is already the metric of the verdict of a study of task classify",
        ),
        ({"task": "sft", "primary": "length", "metrics": [{"name": "length"}], "margin": "1"}, "has no 'length'"),
    ],
)
def test_metrics_that_do_not_fit_the_task_are_refused(changes: dict, message: str):
    with pytest.raises(SpecError, match=message):
        check_asked(study(**changes))
    check_asked(study(**changes, task=None) if "task" not in changes else study(**{**changes, "task": None}))


def test_an_own_metric_is_a_function_of_sums_and_gets_its_interval_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(metrics_module, "_REGISTERED", {})
    top_share = Metric(
        name="share_of_class_1",
        label="share of class 1",
        higher_is_better=True,
        form="proportion",
        sums=lambda scores: np.stack([scores.predictions == 1, np.ones(len(scores.examples))], axis=1),
        value=lambda sums: sums[..., 0] / sums[..., 1],
    )
    register_metric(top_share, "classify")
    assert metrics_of("classify")[-1] == "share_of_class_1"
    assert "share_of_class_1" not in metrics_of("sft")
    scores = scores_of(tmp_path, labelled_rows([0, 1, 1, 0], [1, 1, 1, 0]))
    assert compute("share_of_class_1", scores) == 0.75
    with pytest.raises(SpecError, match="a metric named 'share_of_class_1' already exists"):
        register_metric(top_share, "classify")
