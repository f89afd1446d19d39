"""The whole way from files to tables: what is written, what it is known by, which task it is."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from data_helpers import Prepared, make_study, write_rows

import tunewise.lab.prepare
from tunewise.errors import DataError, ModelError
from tunewise.lab.data.examples import infer_task
from tunewise.lab.data.prepare import PreparedExamples, data_key, prepare_examples
from tunewise.records import EXAMPLES_SCHEMA
from tunewise.spec import Task

ROWS = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(80)]


@pytest.mark.parametrize(
    ("columns", "mapped", "task"),
    [
        (["messages"], {}, "sft"),
        (["prompt", "completion"], {}, "sft"),
        (["instruction", "output"], {"completion": "output"}, "sft"),
        (["text", "label"], {}, "classify"),
        (["text"], {}, "lm"),
        (["text", "id"], {}, "lm"),
        (["sentence", "label"], {"text": "sentence"}, "classify"),
        (["text", "label"], {"prompt": "text", "completion": "label"}, "sft"),
        (["text", "prompt"], {"completion": "text"}, "sft"),
        (["body"], {"text": "body"}, "lm"),
    ],
)
def test_the_columns_tell_the_task(columns: list[str], mapped: dict[str, str], task: Task) -> None:
    assert infer_task(columns, mapped) == task


def test_columns_of_no_task_or_two_are_refused() -> None:
    with pytest.raises(DataError, match=r"lables.*Did you mean 'label'"):
        infer_task(["lables", "x"])
    with pytest.raises(DataError, match="sft and classify"):
        infer_task(["text", "label", "messages"])


def test_a_test_set_is_known_by_its_texts_whatever_their_order_and_their_tokens(tmp_path: Path, tiny: Any) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "a"}]} for i in range(9)
    ]
    found = {}
    for kind, rows in {"pairs": ROWS[:9], "chats": chats}.items():
        for name, test in {"same": rows[1:], "turned": rows[:0:-1], "fewer": rows[2:]}.items():
            folder = tmp_path / kind / name
            folder.mkdir(parents=True)
            sources = {"train": rows[:1] * 3, "valid": rows[:1], "test": test}
            paths = {split: write_rows(folder / f"{split}.jsonl", of) for split, of in sources.items()}
            study = make_study({**paths, "max_length": 40, "duplicates": "keep"}, forgetting={"tokens": 0})
            found[kind, name] = prepare_examples(study, tiny, 512, folder / "out", (tiny.eos_token_id,)).test_set
        assert found[kind, "same"] == found[kind, "turned"]
    assert len(set(found.values())) == 4


def test_every_table_has_the_schema_of_examples_and_ids_of_its_own(tmp_path: Path, tiny: Any) -> None:
    study = make_study({"train": write_rows(tmp_path / "t.jsonl", ROWS)}, forgetting={"tokens": 500})
    prepare_examples(study, tiny, 512, tmp_path / "out", (tiny.eos_token_id,))
    ids = []
    for name in ("train", "valid", "test", "general"):
        table = pq.read_table(tmp_path / "out" / f"{name}.parquet")
        assert table.schema.equals(EXAMPLES_SCHEMA)
        ids += table["example"].to_pylist()
        assert all(
            len(row["input_ids"]) == len(row["supervised"]) and any(row["supervised"]) and not row["supervised"][0]
            for row in table.to_pylist()
        )
    assert len(ids) == len(set(ids))


def test_the_fingerprint_is_of_the_examples_not_of_the_file(
    tmp_path: Path, prepare: Callable[..., Prepared], tiny: Any
) -> None:
    jsonl = write_rows(tmp_path / "rows.jsonl", ROWS)
    table = tmp_path / "other.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["completion", "prompt"])
        writer.writeheader()
        writer.writerows(ROWS)
    first = prepare(make_study({"train": jsonl})).summary
    assert first == prepare(make_study({"train": jsonl})).summary
    assert prepare(make_study({"train": str(table)})).summary.data == first.data
    changed = write_rows(tmp_path / "changed.jsonl", [*ROWS[:-1], {"prompt": "question 79", "completion": "other"}])
    assert prepare(make_study({"train": changed})).summary.data != first.data


def test_the_key_follows_contents_and_settings_and_not_names(tmp_path: Path) -> None:
    train, copy = (write_rows(tmp_path / name, ROWS) for name in ("a.jsonl", "b.jsonl"))
    other = write_rows(tmp_path / "c.jsonl", ROWS[1:])
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    key = data_key(make_study({"train": train}), "tokenizer")
    assert data_key(make_study({"train": copy}), "tokenizer") == key
    studies = [
        make_study({"train": other}),
        make_study({"train": train, "test": other}),
        make_study({"train": train, "max_length": 100}),
        make_study({"train": train, "chat_template": str(template)}),
        make_study({"train": train}, task="lm"),
        make_study({"train": train}, forgetting={"tokens": 100}),
        make_study({"train": train}, forgetting={"tokens": 100, "text": other}),
    ]
    keys = {
        key,
        data_key(make_study({"train": train}), "other tokenizer"),
        *(data_key(s, "tokenizer") for s in studies),
    }
    assert len(keys) == 2 + len(studies)
    with pytest.raises(DataError, match=r"no such file.*Did you mean"):
        data_key(make_study({"train": train + "x"}), "tokenizer")


def test_data_that_changes_while_it_is_prepared_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write_rows(tmp_path / "t.jsonl", ROWS)

    def slow(*arguments: Any) -> PreparedExamples:
        prepared = prepare_examples(*arguments)
        write_rows(tmp_path / "t.jsonl", [{**ROWS[0], "completion": "another answer"}, *ROWS[1:]])
        return prepared

    monkeypatch.setattr(tunewise.lab.prepare, "prepare_examples", slow)
    with pytest.raises(DataError, match="the data changed while it was prepared"):
        tunewise.lab.prepare.prepare(make_study({"train": train}, model="tiny"), tmp_path / "data")
    assert not list(tmp_path.rglob("data.json"))


def test_the_first_example_shows_what_is_read_and_what_is_trained_on(
    tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    summary = prepare(make_study({"train": write_rows(tmp_path / "t.jsonl", ROWS)})).summary
    number = summary.example_prompt.removeprefix("question ").removesuffix("\n")
    assert summary.example_supervised == f"answer {number}<|endoftext|>"


def test_the_models_context_bounds_the_examples_and_is_remarked(
    tmp_path: Path, prepare: Callable[..., Prepared]
) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n\n".join(f"chapter {i} " + "on and on " * 50 for i in range(60)))
    prepared = prepare(make_study({"train": str(path)}), context=32)
    assert max(len(row["input_ids"]) for row in prepared.tables["train"]) == 32
    assert any("limited to the model's context of 32 tokens" in note for note in prepared.summary.notes)


def test_figures_of_a_split_are_sums_over_its_table(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    prepared = prepare(make_study({"train": write_rows(tmp_path / "t.jsonl", ROWS), "limit": {"train": 30}}))
    for split in prepared.summary.splits:
        table = prepared.tables[split.split]
        assert split.rows == len(table)
        assert split.units == len({row["unit"] for row in table})
        assert split.tokens == sum(len(row["input_ids"]) for row in table)
        assert split.supervised_tokens == sum(sum(row["supervised"]) for row in table)
    assert prepared.summary.splits[0].rows == 30
    assert json.dumps(prepared.summary.notes).count("data.limit") == 1


def test_a_slow_tokenizer_is_refused(tmp_path: Path, prepare: Callable[..., Prepared]) -> None:
    class Slow:
        is_fast = False
        eos_token_id = 0

    with pytest.raises(ModelError, match="tokenizer Slow"):
        prepare(make_study({"train": write_rows(tmp_path / "t.jsonl", ROWS)}), Slow())
