"""Laws of batches: what is trained on, once each; how steps and micro-batches are cut."""

import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunewise.lab.data import batching
from tunewise.lab.data.batching import (
    Batch,
    Batching,
    Example,
    cut,
    cut_packed,
    make_batch,
    pack_batch,
    read_examples,
    step_rows,
)
from tunewise.lab.models.attention import common_size
from tunewise.records import EXAMPLES_SCHEMA

PADDING = 0
Examples = Callable[..., list[Example]]


def example(supervised: list[bool], label: int = -1) -> Example:
    ids = list(range(100, 100 + len(supervised)))
    return Example("e", "u", ids, supervised, 1, label, "prompt", "reference")


def targets_of(batch: Batch) -> list[list[tuple[int, int]]]:
    """Per example its (position that predicts, token id to be predicted)."""
    num_examples, width = batch.input_ids_BT.shape
    found: list[list[tuple[int, int]]] = [[] for _ in range(num_examples)]
    places, targets, owners = batch.places_N.tolist(), batch.targets_N.tolist(), batch.example_of_N.tolist()
    for place, target, owner in zip(places, targets, owners, strict=True):
        b, position = divmod(place, width)
        assert b == owner, "a target belongs to the example whose logits predict it"
        found[b].append((position, target))
    return found


def is_common(size: int) -> bool:
    """32 sizes from each power of two to the next: at most five bits behind the first."""
    return size % max(2 ** ((size - 1).bit_length() - 5), 1) == 0


@given(st.integers(1, 100_000))
def test_a_common_size_is_the_next_of_few(size: int) -> None:
    assert common_size(size) == next(n for n in range(size, 2 * size) if is_common(n)) if size > 1 else size
    assert size <= common_size(size) <= 1.0625 * size
    assert len({common_size(n) for n in range(513, 1025)}) == 16


masks = st.lists(st.booleans(), min_size=1, max_size=12).map(lambda tail: [False, *tail])


@given(st.lists(masks.filter(any), min_size=1, max_size=7), st.integers(1, 40))
def test_every_supervised_token_is_predicted_exactly_once_from_the_token_before_it(
    supervised: list[list[bool]], max_tokens: int
) -> None:
    examples = [example(marks) for marks in supervised]
    seen: Counter[tuple[int, int, int]] = Counter()
    for piece in cut(examples, range(len(examples)), max_tokens):
        batch = make_batch(examples, piece, PADDING)
        assert batch.rows == tuple(piece)
        for row, targets in zip(piece, targets_of(batch), strict=True):
            seen.update((row, position + 1, target) for position, target in targets)
    wanted = Counter(
        (row, t, e.input_ids[t]) for row, e in enumerate(examples) for t, marked in enumerate(e.supervised) if marked
    )
    assert seen == wanted


@given(st.lists(masks.filter(any), min_size=1, max_size=7))
def test_padding_is_on_the_right_and_masked_and_counts_for_nothing(supervised: list[list[bool]]) -> None:
    examples = [example(marks) for marks in supervised]
    batch = make_batch(examples, range(len(examples)), PADDING)
    width = max(len(e.input_ids) for e in examples)
    assert batch.input_ids_BT.shape == batch.attention_mask_BT.shape == (len(examples), width)
    for e, ids, mask in zip(examples, batch.input_ids_BT.tolist(), batch.attention_mask_BT.tolist(), strict=True):
        length = len(e.input_ids)
        assert ids == e.input_ids + [PADDING] * (width - length)
        assert mask == [1] * length + [0] * (width - length)
    assert batch.num_tokens == sum(len(e.input_ids) for e in examples)
    assert batch.num_targets == sum(e.num_targets for e in examples)


def test_a_first_token_that_should_be_predicted_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="no context"):
        make_batch([example([True, True])], [0], PADDING)


def test_a_classification_has_one_target_per_example_the_label_even_class_zero() -> None:
    examples = [example([False] * length, label) for length, label in ((3, 0), (5, 2), (2, 1))]
    batch = make_batch(examples, [2, 0, 1], PADDING)
    assert batch.classifies
    assert batch.targets_N.tolist() == [1, 0, 2]
    assert batch.num_targets == 3
    assert [e.num_targets for e in examples] == [1, 1, 1]


def test_a_batch_moves_to_another_device_whole() -> None:
    batch = make_batch([example([False, True])], [0], PADDING)
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 5
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    packed = pack_batch([example([False, True])], [0]).to("meta")
    assert {v.device.type for v in packed.inputs.values() if v is not None} == {"meta"}
    assert (moved.rows, moved.num_tokens, moved.classifies) == (batch.rows, batch.num_tokens, batch.classifies)


# --- cutting


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 200), st.randoms(use_true_random=False))
def test_a_cut_keeps_every_row_once_within_the_budget_of_padded_tokens(
    lengths: list[int], max_tokens: int, order: object
) -> None:
    examples = [example([False] * length) for length in lengths]
    rows = list(range(len(lengths)))
    order.shuffle(rows)  # type: ignore[attr-defined]
    pieces = cut(examples, rows, max_tokens)
    assert sorted(row for piece in pieces for row in piece) == sorted(rows)
    for piece in pieces:
        width = max(lengths[row] for row in piece)
        assert len(piece) == 1 or width * len(piece) <= max_tokens
    assert pieces == cut(examples, sorted(rows), max_tokens), "the same rows are cut the same way in whatever order"


def test_rows_of_like_length_share_a_micro_batch() -> None:
    examples = [example([False] * length) for length in (2, 30, 3, 29, 1)]
    assert cut(examples, range(5), 60) == [[1, 3], [2, 0, 4]]


@given(st.lists(masks.filter(any), min_size=1, max_size=7), st.integers(1, 40))
def test_a_packed_batch_holds_the_tokens_positions_and_targets_of_its_examples_one_after_the_other(
    supervised: list[list[bool]], max_tokens: int
) -> None:
    examples = [
        Example("e", "u", [100 * i + t for t in range(len(s))], s, 1, -1, "", "") for i, s in enumerate(supervised)
    ]
    for piece in cut_packed(examples, range(len(examples)), max_tokens):
        batch = pack_batch(examples, piece)
        ids = [token for row in piece for token in examples[row].input_ids]
        num_filling = batch.input_ids_BT.shape[1] - len(ids)
        assert batch.input_ids_BT.tolist() == [ids + [ids[-1]] * num_filling]
        assert batch.attention_mask_BT.tolist() == [[1] * len(ids) + [0] * num_filling]
        positions = [t for row in piece for t in range(len(supervised[row]))]
        assert batch.position_ids_BT is not None
        assert batch.position_ids_BT.tolist() == [positions + [0] * num_filling]
        assert batch.num_tokens == len(ids)
        found = [
            (ids[place + 1], target)
            for place, target in zip(*map(list, (batch.places_N, batch.targets_N)), strict=True)
        ]
        assert all(following == target for following, target in found)
        owners = [100 * piece[b] for b in batch.example_of_N.tolist()]
        wanted = [
            (100 * row, examples[row].input_ids[t])
            for row in piece
            for t, is_target in enumerate(supervised[row])
            if is_target
        ]
        assert list(zip(owners, batch.targets_N.tolist(), strict=True)) == wanted


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 200))
def test_a_packed_cut_keeps_every_row_once_and_wastes_no_budget(lengths: list[int], max_tokens: int) -> None:
    examples = [example([False] * length) for length in lengths]
    pieces = cut_packed(examples, range(len(lengths)), max_tokens)
    assert sorted(row for piece in pieces for row in piece) == list(range(len(lengths)))
    sizes = [sum(lengths[row] for row in piece) for piece in pieces]
    assert all(len(piece) == 1 or size <= max_tokens for piece, size in zip(pieces, sizes, strict=True))
    for size, following in zip(sizes, pieces[1:], strict=False):
        assert size + lengths[following[0]] > max_tokens, "the next row would have fitted"


@given(st.lists(st.integers(2, 20), min_size=1, max_size=12), st.integers(0, 25), st.integers(1, 60))
def test_rows_up_to_the_length_that_may_be_packed_are_packed_and_all_others_padded(
    lengths: list[int], longest: int, max_tokens: int
) -> None:
    examples = [example([False] * (length - 1) + [True]) for length in lengths]
    batches = list(Batching(max_tokens, PADDING, longest).batches(examples, range(len(lengths))))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        is_packed = batch.packed_12BL is not None
        assert all((lengths[row] <= longest) == is_packed for row in batch.rows)
        assert (batch.position_ids_BT is not None) == is_packed


# --- the order of steps


@given(num_rows=st.integers(1, 50), batch_size=st.integers(1, 20), num_steps=st.integers(0, 40), seed=st.integers(0, 9))
def test_the_steps_run_through_each_epoch_exactly_once_before_the_next(
    num_rows: int, batch_size: int, num_steps: int, seed: int
) -> None:
    steps = list(step_rows(num_rows, batch_size, num_steps, seed))
    assert len(steps) == num_steps
    per_epoch = -(-num_rows // batch_size)
    for start in range(0, num_steps, per_epoch):
        epoch = steps[start : start + per_epoch]
        rows = [row for step in epoch for row in step]
        assert len(set(rows)) == len(rows)
        if len(epoch) == per_epoch:
            assert sorted(rows) == list(range(num_rows))
            assert all(len(step) == batch_size for step in epoch[:-1])


def test_the_order_depends_on_the_seed_and_on_the_epoch_and_on_nothing_else() -> None:
    first = list(step_rows(40, 8, 10, seed=1))
    torch.manual_seed(123)
    assert list(step_rows(40, 8, 10, seed=1)) == first
    assert list(step_rows(40, 8, 3, seed=1)) == first[:3], "a shorter run begins alike"
    assert list(step_rows(40, 8, 10, seed=2)) != first
    assert first[:5] != first[5:], "each epoch has an order of its own"
    assert [row for step in first[:5] for row in step] != list(range(40))


# --- storage


def test_prepared_examples_are_read_back_equal(
    tmp_path: Path, examples_of: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "READ_TOGETHER", 3)  # so that they are read in several parts
    examples = [*examples_of([3, 7, 2]), *examples_of([4], classify=True), *examples_of([1, 5, 6])]
    table = pa.Table.from_pylist([asdict(e) for e in examples], schema=EXAMPLES_SCHEMA)
    pq.write_table(table, tmp_path / "train.parquet")
    found = read_examples(tmp_path / "train.parquet")
    assert [replace(e, input_ids=list(e.input_ids), supervised=[*map(bool, e.supervised)]) for e in found] == examples
    assert [e.num_targets for e in found] == [e.num_targets for e in examples]


def test_a_token_that_is_read_takes_five_bytes_and_no_object(tmp_path: Path) -> None:
    num_rows, num_tokens = 500, 400
    row = {
        "example": "train:1",
        "unit": "u",
        "num_bytes": 1,
        "label": -1,
        "prompt": "p",
        "reference": "r",
        "input_ids": list(range(1000, 1000 + num_tokens)),
        "supervised": [False, True] * (num_tokens // 2),
    }
    pq.write_table(pa.Table.from_pylist([row] * num_rows, schema=EXAMPLES_SCHEMA), tmp_path / "train.parquet")
    read_examples(tmp_path / "train.parquet")  # what is loaded once does not count
    tracemalloc.start()
    try:
        examples = read_examples(tmp_path / "train.parquet")
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(examples) == num_rows
    assert kept < 8 * num_rows * num_tokens, "4 bytes for the number, 1 for the mark; a list of objects takes 40"
    assert peak < 32 * num_rows * num_tokens
