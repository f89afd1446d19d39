"""Metrics are functions of sums over examples, and scores.parquet is read as it was written or refused."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewise.desk.metrics import METRICS, Scores, compute, metrics_of, primary_metric, read_scores
from tunewise.errors import SpecError, StudyError
from tunewise.records import SCORES_SCHEMA


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
    scores = scores_of(tmp_path, rows)
    shuffled = scores_of(tmp_path, [rows[i] for i in rng.permutation(30)])
    assert compute(name, shuffled) == compute(name, scores)
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
    with pytest.raises(StudyError, match="need a label"):
        compute("accuracy", scores_of(tmp_path, text_rows(3, seed=1)))
    with pytest.raises(StudyError, match="per bytes of supervised text needs some"):
        compute("bits_per_byte", scores_of(tmp_path, labelled_rows([0], [0])))
    with pytest.raises(SpecError, match="Did you mean 'accuracy'"):
        compute("acuracy", scores_of(tmp_path, labelled_rows([0], [0])))


def test_a_perplexity_beyond_float64_is_infinite_and_nothing_warns(tmp_path: Path):
    rows = [row | {"nll": 1e6, "num_tokens": 1} for row in text_rows(3, seed=1)]
    with np.errstate(all="raise"):
        assert compute("perplexity", scores_of(tmp_path, rows)) == math.inf


def test_every_task_reports_its_metrics_and_judges_by_one_of_them():
    assert metrics_of("sft") == metrics_of("lm") == ("nll", "perplexity", "bits_per_byte")
    assert metrics_of("classify") == ("accuracy", "macro_f1", "nll")
    assert [primary_metric(task) for task in ("sft", "lm", "classify")] == ["nll", "nll", "accuracy"]
    assert all(METRICS[name].name == name for name in METRICS)
