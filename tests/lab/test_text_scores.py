"""What the lab counts in written text gives, summed by the desk, the corpus scores of the libraries themselves."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sacrebleu.metrics import BLEU, CHRF

from tunewise.desk.metrics.metrics import METRICS, compute
from tunewise.desk.metrics.scores import Scores, read_scores
from tunewise.errors import DataError
from tunewise.lab.data.batching import Example
from tunewise.lab.evaluate.generate import Generated
from tunewise.lab.evaluate.text_scores import last_match, written_columns
from tunewise.records import SCORES_SCHEMA, WRITTEN_COLUMNS
from tunewise.spec import MetricSpec

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat,", "big", "red", "house.", "It's", "3,000", "and", "they're"]
LIBRARY_METRICS = tuple(MetricSpec(name=name) for name in ("bleu", "chrf", "rouge_l"))


def example(row: int, reference: str) -> Example:
    return Example(
        example=f"row-{row:03d}",
        unit=f"row-{row:03d}",
        input_ids=[1, 2],
        supervised=[False, True],
        num_bytes=len(reference),
        label=-1,
        prompt="",
        reference=reference,
    )


def scores_of(folder: Path, metrics: tuple[MetricSpec, ...], pairs: list[tuple[str, str]]) -> Scores:
    """Scores of (written, reference) pairs, through the file as a run writes it."""
    examples = [example(i, reference) for i, (_, reference) in enumerate(pairs)]
    written = [Generated(text, num_tokens=len(text.split()), stopped=len(text) % 2 == 0) for text, _ in pairs]
    rows = [
        {"split": "test", "example": e.example, "unit": e.unit, "nll": 1.0, "num_tokens": 1, "num_bytes": 1}
        | {"label": -1, "prediction": -1, "class_log_probabilities": [], **columns}
        for e, columns in zip(examples, written_columns(metrics, examples, written), strict=True)
    ]
    random.Random(0).shuffle(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), folder / "scores.parquet")
    return read_scores(folder / "scores.parquet", "test")


def test_several_references_are_counted_as_the_libraries_count_them(tmp_path: Path) -> None:
    """BLEU and chrF are sacrebleu's with several references, ROUGE-L that of the best one, a match one of any."""
    triples = [
        (written, [first, second])
        for (written, first), (_, second) in zip(noisy_pairs(30, 0.6, 1), noisy_pairs(30, 0.6, 2), strict=True)
    ]
    triples[0] = ("yes", ["no", "yes"])
    examples = [replace(example(i, refs[0]), references=refs) for i, (_, refs) in enumerate(triples)]
    written = [Generated(text, num_tokens=1, stopped=True) for text, _ in triples]
    metrics = (*LIBRARY_METRICS, MetricSpec(name="exact_match"))
    found = [dict(row["statistics"]) for row in written_columns(metrics, examples, written)]
    texts = [text for text, _ in triples]
    streams = [[refs[place] for _, refs in triples] for place in range(2)]
    for name, scorer in (("bleu", BLEU()), ("chrf", CHRF())):
        sums = np.array([row[name] for row in found])[:, None, :].sum(axis=0)
        assert float(METRICS[name].value(sums)[0]) * 100 == pytest.approx(scorer.corpus_score(texts, streams).score)
    alone = [
        [row["statistics"] for row in written_columns(metrics, [example(0, ref) for ref in stream], written)]
        for stream in streams
    ]
    for place, row in enumerate(found):
        both = [dict(stream[place]) for stream in alone]
        assert row["rouge_l"] == max(one["rouge_l"] for one in both)
        assert row["exact_match"] == max(one["exact_match"] for one in both)
    assert found[0]["exact_match"] == [1.0]


def test_of_several_references_those_without_the_extract_do_not_count() -> None:
    metric = MetricSpec(name="exact_match", extract=r"#### (\S+)")
    wrote = [Generated("#### 4", num_tokens=1, stopped=True)]
    row = replace(example(0, "none"), references=["none", "#### 4"])
    assert written_columns((metric,), [row], wrote)[0]["statistics"] == [("exact_match", [1.0])]
    with pytest.raises(DataError, match="which the answer 'none'"):
        written_columns((metric,), [replace(row, references=["none", "neither"])], wrote)


def noisy_pairs(num_pairs: int, kept: float, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    pairs = []
    for _ in range(num_pairs):
        reference = [rng.choice(WORDS) for _ in range(rng.randint(3, 14))]
        text = [word if rng.random() < kept else rng.choice(WORDS) for word in reference if rng.random() < 0.9]
        pairs.append((" " + " ".join(text) + rng.choice(["", "\n"]), " ".join(reference)))
    return pairs


CORPORA = {
    "good": noisy_pairs(40, 0.9, 1),
    "poor": noisy_pairs(40, 0.2, 2),
    "long-winded": [(text + " " + text, reference) for text, reference in noisy_pairs(20, 0.7, 3)],
    "one row": noisy_pairs(1, 0.6, 4),
    "some empty": [("", "the cat"), *noisy_pairs(5, 0.8, 5), ("the", "a b c d e")],
    "no 4-gram in common": [("the cat sat on", "the cat sat down"), ("a dog", "a dog")],
    "nothing in common": [("aaaa bbbb cccc dddd", "xxxx yyyy zzzz"), ("", "q")],
    "all empty": [("", "the cat"), ("", "a dog")],
    "too short for 4-grams": [("the cat", "the cat")],
}


@pytest.mark.parametrize("corpus", CORPORA)
def test_bleu_and_chrf_from_sums_are_sacrebleus_corpus_scores(tmp_path: Path, corpus: str) -> None:
    pairs = CORPORA[corpus]
    written, references = [text for text, _ in pairs], [[reference for _, reference in pairs]]
    scores = scores_of(tmp_path, LIBRARY_METRICS, pairs)
    assert 100 * compute("bleu", scores) == pytest.approx(BLEU().corpus_score(written, references).score, abs=1e-9)
    assert 100 * compute("chrf", scores) == pytest.approx(CHRF().corpus_score(written, references).score, abs=1e-9)


def test_the_corpora_reach_both_ends_of_the_scale_and_the_smoothing(tmp_path: Path) -> None:
    values = {name: compute("bleu", scores_of(tmp_path, LIBRARY_METRICS, pairs)) for name, pairs in CORPORA.items()}
    assert values["nothing in common"] == values["all empty"] == values["too short for 4-grams"] == 0
    assert values["no 4-gram in common"] > 0
    assert values["poor"] < values["good"] < 1


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_leaving_a_row_out_of_the_sums_is_leaving_it_out_of_the_corpus(tmp_path: Path, name: str) -> None:
    pairs = CORPORA["good"]
    scores = scores_of(tmp_path, LIBRARY_METRICS, pairs)
    metric = METRICS[name]
    sums_NK = metric.sums(scores)
    without = metric.value(sums_NK.sum(axis=0) - sums_NK)
    scorer = {"bleu": BLEU, "chrf": CHRF}[name]()
    for row in range(0, len(pairs), 7):
        kept = pairs[:row] + pairs[row + 1 :]
        expected = scorer.corpus_score([text for text, _ in kept], [[reference for _, reference in kept]]).score
        assert 100 * without[row] == pytest.approx(expected, abs=1e-9)


def test_rouge_l_is_the_mean_f1_of_longest_common_subsequences_worked_by_hand(tmp_path: Path) -> None:
    pairs = [
        ("the cat sat", "the cat sat"),  # 3 of 3 and 3
        ("sat the cat", "the cat sat"),  # 'the cat': 2 of 3 and 3
        ("a dog", "the cat sat"),  # nothing
        ("the big cat", "the cat"),  # 2 of 3 and 2: 2 * 2 / 5
    ]
    expected = (1 + 2 / 3 + 0 + 4 / 5) / 4
    assert compute("rouge_l", scores_of(tmp_path, LIBRARY_METRICS, pairs)) == pytest.approx(expected, rel=1e-12)


GSM8K = r"#### (\S+)"


@pytest.mark.parametrize(
    ("extract", "written", "reference", "hit"),
    [
        (GSM8K, "so 6 * 7 = 42.\n#### 42", "6 * 7\n#### 42", True),
        (GSM8K, "#### 1,042", "#### 1042", True),
        (GSM8K, "#### 42 dollars", "#### 42", True),
        (GSM8K, "#### 41\nno, wait\n#### 42", "#### 42", True),  # the last one counts
        (GSM8K, "#### 42\nno, wait\n#### 41", "#### 42", False),
        (GSM8K, "the answer is 42", "#### 42", False),
        (GSM8K, "", "#### 42", False),
        (r"\d+", "from 3 to 7", "7", True),  # without a group the whole match
        (None, " The  cat\n", "The cat", True),
        (None, "The cat, and 1,5", "The cat and 15", False),  # commas between words stay
        (None, "the cat", "The cat", False),
        (r"(a)|b", "b", "a", False),  # a group that took no part finds nothing
    ],
)
def test_exact_match_compares_what_is_extracted_last(
    tmp_path: Path, extract: str | None, written: str, reference: str, hit: bool
) -> None:
    metrics = (MetricSpec(name="exact_match", extract=extract),)
    assert compute("exact_match", scores_of(tmp_path, metrics, [(written, reference)])) == hit


def test_a_reference_without_what_is_extracted_is_refused_rather_than_never_matched(tmp_path: Path) -> None:
    metrics = (MetricSpec(name="exact_match", extract=GSM8K),)
    with pytest.raises(DataError, match="which the answer 'forty-two' of the data does not contain"):
        scores_of(tmp_path, metrics, [("#### 1", "#### 1"), ("x", "forty-two")])


def test_the_last_match_is_normalised() -> None:
    assert last_match(r"= *(.*)", "x = 1,000 , 2\ny =  2 000 \n") == "2 000"
    assert last_match(r"=(.*)", "x = 1,000,000") == "1000000"
    assert last_match(r"=", "nothing") is None


def test_matches_is_the_share_of_texts_that_hold_the_expression_whatever_the_reference(tmp_path: Path) -> None:
    metrics = (MetricSpec(name="matches", extract=r"^\{.*\}$"),)
    pairs = [("{1}", "x"), ("say {1}", "{1}"), ("{}", "{}"), ("", "{}")]
    assert compute("matches", scores_of(tmp_path, metrics, pairs)) == 0.5


def test_metrics_with_names_of_their_own_are_counted_side_by_side(tmp_path: Path) -> None:
    metrics = (
        MetricSpec(name="number", extract=r"(\d+)"),
        MetricSpec(name="unit", extract=r"(km|mi)"),
        MetricSpec(name="polite", extract="please", kind="matches"),
    )
    scores = scores_of(tmp_path, metrics, [("7 km", "7 km"), ("7 mi", "7 km"), ("please 8 km", "7 km"), ("", "7 km")])
    assert scores.written is not None
    found = {name: values[:, 0].tolist() for name, values in scores.written.statistics.items()}
    assert found == {"number": [1, 1, 0, 0], "unit": [1, 0, 1, 0], "polite": [0, 0, 1, 0]}


def test_lengths_and_ends_are_means_over_rows_and_need_no_library(tmp_path: Path) -> None:
    pairs = [("one two three", "x"), ("four", "x"), ("five six", "x")]  # 13, 4 and 8 letters: even ones have ended
    scores = scores_of(tmp_path, (MetricSpec(name="length"), MetricSpec(name="end_of_text")), pairs)
    assert compute("length", scores) == 2
    assert compute("end_of_text", scores) == pytest.approx(2 / 3)
    assert scores.written is not None
    assert scores.written.statistics == {}


def test_what_was_written_comes_back_in_the_order_of_the_examples(tmp_path: Path) -> None:
    pairs = CORPORA["good"]
    scores = scores_of(tmp_path, LIBRARY_METRICS, pairs)
    assert scores.written is not None
    assert scores.written.texts.tolist() == [text for text, _ in pairs]
    assert scores.written.num_tokens.tolist() == [len(text.split()) for text, _ in pairs]
    alone = [scores_of(tmp_path, LIBRARY_METRICS, [pair]).written for pair in pairs]
    for name, values in scores.written.statistics.items():
        assert np.array_equal(values, np.concatenate([one.statistics[name] for one in alone if one])), name


def test_all_written_columns_are_of_the_schema() -> None:
    (columns,) = written_columns(LIBRARY_METRICS, [example(0, "x")], [Generated("x", 1, True)])
    assert set(columns) == set(WRITTEN_COLUMNS) < set(SCORES_SCHEMA.names)
