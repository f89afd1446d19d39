"""Laws of a run: from a spec to a record that is complete, repeatable, and true of the weights that it leaves."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from builders import make_data_summary, make_inputs, make_run_spec, make_train_summary
from tunewise.errors import SpecError
from tunewise.lab.data.batching import Example
from tunewise.lab.evaluate.generate import stop_ids
from tunewise.lab.machine import require_device
from tunewise.lab.models.load import inner_model
from tunewise.lab.run.story import Run
from tunewise.records import (
    EXAMPLES_SCHEMA,
    SCORES_SCHEMA,
    SPECTRUM_SCHEMA,
    WRITTEN_COLUMNS,
    RunRecord,
)
from tunewise.spec import (
    BaseMethod,
    ExistingMethod,
    FullMethod,
    HeadMethod,
    Inputs,
    LoraMethod,
    MetricSpec,
    PeftMethod,
    RunSpec,
    SamplesSpec,
    TrainSpec,
)
from tunewise.storage.ledger import CHECKPOINT, Ledger

LABELS = ("negative", "neutral", "positive")
LENGTHS = {
    "train": (9, 4, 16, 5, 12, 7, 20, 6, 11, 8),
    "valid": (9, 14, 5, 8),
    "test": (7, 15, 4, 10, 6),
    "general": (12, 8),
}
TRAIN = TrainSpec(epochs=3, batch_size=4, micro_batch_tokens=40, evaluations=3, warmup=0.1)
RATES = {"full": 3e-3, "lora": 2e-2, "head": 5e-2, "peft": 3e-2}
Folder = Callable[[str], Path]
Examples = Callable[..., list[Example]]
Make = Callable[..., RunSpec]


class Laboratory:
    """A study folder with prepared data, and runs in this process."""

    def __init__(self, root: Path, task: str, model: Path, examples_of: Examples) -> None:
        self.ledger, self.task, self.model = Ledger(root / "study"), task, model
        self.data = self.ledger.data_folder("data")
        self.data.mkdir(parents=True)
        self.examples = {
            split: examples_of(lengths, seed=number, classify=task == "classify")
            for number, (split, lengths) in enumerate(LENGTHS.items())
        }
        for split, rows in self.examples.items():
            pq.write_table(
                pa.Table.from_pylist([asdict(e) for e in rows], EXAMPLES_SCHEMA), self.data / f"{split}.parquet"
            )
        labels = LABELS if task == "classify" else ()
        splits = (make_train_summary(len(LENGTHS["train"])),)
        summary = make_data_summary(task=task, labels=labels, inputs=self.inputs(), splits=splits)
        (self.data / "data.json").write_text(summary.model_dump_json(), encoding="utf-8")
        self.events: list[Any] = []

    def inputs(self) -> Inputs:
        general = None if self.task == "classify" else "g"
        return make_inputs(general=general)

    def spec(self, method: Any, role: str = "confirm", **changes: Any) -> RunSpec:
        is_trained = method.method in RATES
        rate = RATES[method.method] if is_trained else None
        content = {
            "role": role,
            "model": str(self.model),
            "task": self.task,
            "method": method.model_dump(),
            "train": TRAIN.model_dump(),
            "learning_rate": rate,
            "head_learning_rate": 0.05 if is_trained and self.task == "classify" else None,
            "seed": 3,
            "score_splits": ("valid",) if role == "tune" else ("valid", "test"),
            "forgetting_points": 0 if role == "tune" or self.task == "classify" else 2,
            "samples": SamplesSpec(count=0 if role == "tune" else 2, max_new_tokens=3).model_dump(),
            "inputs": {**self.inputs().model_dump(), **({"general": None} if role == "tune" else {})},
        }
        return make_run_spec(**{**content, **changes})

    def run(self, method: Any, role: str = "confirm", **changes: Any) -> RunRecord:
        """The record as stored."""
        spec = self.spec(method, role, **changes)
        self.events = []
        Run(spec, self.ledger.begin(spec), self.data, self.events.append).execute()
        record = self.ledger.record(spec.run_id)
        assert record is not None
        assert record.spec == spec
        return record

    def scores(self, record: RunRecord, split: str | None = None) -> list[dict[str, Any]]:
        table = pq.read_table(self.ledger.scores_path(record.run_id))
        assert table.schema.equals(SCORES_SCHEMA)
        return [row for row in table.to_pylist() if split in (None, row["split"])]

    def weights(self, record: RunRecord) -> Path:
        return self.ledger.run_folder(record.run_id) / "weights"

    def nll(self, model: torch.nn.Module, split: str) -> list[float]:
        """Of every example alone, with nothing of the package."""
        found = []
        for example in self.examples[split]:
            ids = torch.tensor([example.input_ids])
            with torch.no_grad():
                logits = model.eval()(input_ids=ids).logits[0]
            if self.task == "classify":
                found.append(float(F.cross_entropy(logits, torch.tensor(example.label))))
            else:
                first = example.supervised.index(True)
                found.append(float(F.cross_entropy(logits[first - 1 : -1], ids[0, first:], reduction="sum")))
        return found


@pytest.fixture
def laboratory(tmp_path: Path, model_folder: Folder, examples_of: Examples) -> Callable[..., Laboratory]:
    """A laboratory for a task and the name of a small model."""

    def make(task: str = "sft", model: str = "llama") -> Laboratory:
        return Laboratory(tmp_path, task, model_folder(model), examples_of)

    return make


def nll_column(rows: list[dict[str, Any]]) -> list[float]:
    return [row["nll"] for row in rows]


# --- the record


def test_the_base_is_scored_and_not_trained(laboratory: Callable[..., Laboratory]) -> None:
    lab = laboratory()
    record = lab.run(BaseMethod(), role="base")
    assert (record.status, record.num_steps, record.tuned, record.selected_step) == ("done", 0, None, None)
    assert record.usage is not None
    assert (record.usage.train_seconds, record.usage.train_memory, record.usage.saved_bytes) == (None, None, None)
    assert not lab.weights(record).exists()
    assert [row["split"] for row in lab.scores(record)] == [s for s in ("valid", "test", "general") for _ in LENGTHS[s]]
    for split in ("valid", "test", "general"):
        expected = lab.nll(AutoModelForCausalLM.from_pretrained(lab.model), split)
        assert nll_column(lab.scores(record, split)) == pytest.approx(expected, rel=1e-5)
    assert [sample.example for sample in record.samples] == ["test:1", "test:2"]


def test_text_is_written_for_every_test_row_where_a_metric_asks_for_it_and_the_samples_are_its_first(
    laboratory: Callable[..., Laboratory],
) -> None:
    lab = laboratory()
    plain = lab.run(BaseMethod(), role="base")
    asked = lab.run(BaseMethod(), role="base", metrics=[{"name": "matches", "extract": "w1"}, {"name": "length"}])
    assert asked.run_id != plain.run_id
    assert asked.samples == plain.samples, "metrics change nothing that was there before"
    rows = lab.scores(asked)
    for before, row in zip(lab.scores(plain), rows, strict=True):
        assert {name for name, value in before.items() if value is None} == set(WRITTEN_COLUMNS)
        assert {name: row[name] for name in before if name not in WRITTEN_COLUMNS} == {
            name: value for name, value in before.items() if name not in WRITTEN_COLUMNS
        }
    test = [row for row in rows if row["split"] == "test"]
    assert [row["generated"] for row in test[:2]] == [sample.output for sample in asked.samples]
    for row in test:
        assert row["num_generated"] <= 3, "the cap of samples"
        assert row["stopped"] == (row["num_generated"] < 3)
        assert row["statistics"] == [("matches", [float("w1" in row["generated"])])]
    assert all(row["generated"] is None for row in rows if row["split"] != "test")


@pytest.mark.parametrize("model", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "method", [FullMethod(), LoraMethod(rank=4), PeftMethod(type="IA3")], ids=["full", "lora", "ia3"]
)
def test_a_confirmed_run_is_complete_and_its_weights_give_the_recorded_scores(
    model: str, method: Any, laboratory: Callable[..., Laboratory]
) -> None:
    lab = laboratory(model=model)
    record = lab.run(method)
    num_steps = 9  # 10 rows in steps of 4, 3 epochs
    assert (record.status, record.message, record.num_steps) == ("done", None, num_steps)
    assert [e.step for e in record.evaluations] == [3, 6, 9]
    assert set(record.files) == {"spec.json", "steps.jsonl", "scores.parquet", "forgetting.parquet"}
    assert not (lab.ledger.run_folder(record.run_id) / CHECKPOINT).exists()
    assert record.tuned is not None
    assert 0 < record.tuned.trainable_parameters <= record.tuned.total_parameters
    assert record.tuned.parameter_groups
    assert record.tuned.learned_dtypes == ("float32",)
    usage, train = record.usage, lab.examples["train"]
    assert usage is not None
    assert usage.num_tokens == 3 * sum(len(e.input_ids) for e in train)
    assert usage.num_supervised_tokens == 3 * sum(e.num_targets for e in train)
    assert usage.train_seconds == pytest.approx(sum(event.seconds for event in lab.events))
    assert usage.started is not None
    assert usage.ended is not None
    assert (usage.ended - usage.started).total_seconds() >= usage.train_seconds

    weights = lab.weights(record)
    assert record.weights
    assert usage.saved_bytes is not None
    # what is on disk: weights and configuration; not the tokenizer, nor the card that ours replaces
    own = [
        p
        for p in weights.rglob("*")
        if re.fullmatch(r"(adapter_|generation_)?(model|config)\.(safetensors|json)", p.name)
    ]
    assert usage.saved_bytes == sum(p.stat().st_size for p in own)
    auto = AutoModelForCausalLM if method.method == "full" else AutoPeftModelForCausalLM
    plain = auto.from_pretrained(weights)
    for split in ("test", "general", "valid"):
        assert nll_column(lab.scores(record, split)) == pytest.approx(lab.nll(plain, split), rel=1e-4)
    assert len(AutoTokenizer.from_pretrained(weights)) == 64
    untrained = lab.nll(AutoModelForCausalLM.from_pretrained(lab.model), "test")
    assert math.dist(lab.nll(plain, "test"), untrained) > 0.01, "training changed something"


@pytest.mark.parametrize("model", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("method", [FullMethod(), LoraMethod(rank=4), HeadMethod()], ids=["full", "lora", "head"])
def test_a_tuned_classifier_is_saved_with_its_head(
    model: str, method: Any, laboratory: Callable[..., Laboratory]
) -> None:
    lab = laboratory("classify", model)
    record = lab.run(method)
    assert record.status == "done"
    assert all(e.accuracy is not None for e in record.evaluations)
    if method.method == "lora":
        # the head is not in the base: it must come from the adapter
        plain = AutoPeftModelForSequenceClassification.from_pretrained(lab.weights(record), num_labels=3)
        plain.config.pad_token_id = 0
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(lab.weights(record))
        assert plain.config.id2label == dict(enumerate(LABELS))
    rows = lab.scores(record, "test")
    assert nll_column(rows) == pytest.approx(lab.nll(plain, "test"), rel=1e-4)
    assert [sample.output for sample in record.samples] == [LABELS[row["prediction"]] for row in rows[:2]]


def test_a_learning_rate_trial_leaves_its_selected_valid_scores_and_nothing_else(
    laboratory: Callable[..., Laboratory],
) -> None:
    lab = laboratory()
    record = lab.run(LoraMethod(), role="tune")
    assert {row["split"] for row in lab.scores(record)} == {"valid"}
    assert len(lab.scores(record)) == len(LENGTHS["valid"])
    assert (record.samples, record.weights) == ((), {})
    assert record.usage is not None
    assert record.usage.saved_bytes is None
    assert sorted(p.name for p in lab.ledger.run_folder(record.run_id).iterdir()) == [
        *("lease.json", "record.json", "scores.parquet", "spec.json", "steps.jsonl"),
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trial_scores_general_text_with_its_selected_weights(
    laboratory: Callable[..., Laboratory], precision: str
) -> None:
    """What a trial forgot is what the confirmed run of the same spec forgot: that one was saved and read back."""
    lab = laboratory()
    trial = lab.run(LoraMethod(), role="tune", precision=precision, inputs=lab.inputs().model_dump())
    assert {row["split"] for row in lab.scores(trial)} == {"valid", "general"}
    confirmed = lab.run(LoraMethod(), precision=precision)
    rough = 1e-6 if precision == "fp32" else 0.02  # a trial scores in the precision of training
    assert nll_column(lab.scores(trial, "general")) == pytest.approx(
        nll_column(lab.scores(confirmed, "general")), rel=rough
    )


@pytest.mark.parametrize("task", ["sft", "classify"])
def test_a_trial_scores_its_adapter_at_every_rank_asked_for_and_leaves_it_as_it_was(
    task: str, laboratory: Callable[..., Laboratory]
) -> None:
    lab = laboratory(task)
    plain = lab.run(LoraMethod(rank=4), role="tune")
    record = lab.run(LoraMethod(rank=4), role="tune", ranks=(1, 2))
    assert record.run_id != plain.run_id
    assert record.evaluations == plain.evaluations
    whole = nll_column(lab.scores(record, "valid"))
    assert whole == nll_column(lab.scores(plain, "valid"))
    cut = {
        name: nll_column(lab.scores(record, f"valid:{name}")) for name in ("rank=1", "rank=2", "spread=1", "spread=2")
    }
    assert all(len(rows) == len(whole) for rows in cut.values())
    assert record.rank_patterns.keys() == {1, 2}
    assert set(record.rank_patterns[1].values()) == {1}, "no module goes without"
    assert len({tuple(rows) for rows in (whole, cut["rank=1"], cut["rank=2"])}) == 3, "every cut shows"
    assert {row["split"] for row in lab.scores(record)} - {row["split"] for row in lab.scores(plain)} == {
        f"valid:{name}" for name in cut
    }


@pytest.mark.parametrize(("task", "model"), [("sft", "gpt2"), ("classify", "bert")])
def test_a_confirmed_run_scores_adapters_cut_out_of_full_fine_tuning_and_is_else_the_same(
    task: str, model: str, laboratory: Callable[..., Laboratory]
) -> None:
    lab = laboratory(task, model)
    plain = lab.run(FullMethod())
    record = lab.run(FullMethod(extract={"all-linear": (1, 32), "qkv": (2,)}))
    assert record.run_id != plain.run_id
    for split in ("valid", "test"):
        assert lab.scores(record, split) == lab.scores(plain, split)
    names = ("all-linear=1", "all-linear=32", "all-linear=whole", "qkv=2", "qkv=whole")
    cut = {name: nll_column(lab.scores(record, f"valid:{name}")) for name in names}
    assert all(len(rows) == len(LENGTHS["valid"]) for rows in cut.values())
    assert cut["all-linear=32"] == pytest.approx(cut["all-linear=whole"], rel=1e-4), "no module has more directions"
    assert len({tuple(np.round(rows, 4)) for rows in cut.values()}) == 4, "the others differ"
    assert "spectrum.parquet" in record.files
    assert pq.read_table(lab.ledger.spectrum_path(record.run_id)).schema.equals(SPECTRUM_SCHEMA)
    assert not lab.ledger.spectrum_path(plain.run_id).exists()


def test_every_step_is_logged_and_told(laboratory: Callable[..., Laboratory]) -> None:
    lab = laboratory()
    record = lab.run(FullMethod(), role="tune")
    logged = lab.ledger.steps(record.run_id)
    assert [line["step"] for line in logged] == list(range(1, 10))
    assert [event.model_dump(exclude={"event", "num_steps"}) for event in lab.events] == logged
    assert {(event.event, event.num_steps) for event in lab.events} == {("step", 9)}
    assert max(line["learning_rate"] for line in logged) == RATES["full"]


# --- the same for the same spec


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", [FullMethod(), LoraMethod(dropout=0.1)], ids=["full", "lora"])
def test_the_same_spec_twice_gives_bit_identical_results(
    method: Any, precision: str, laboratory: Callable[..., Laboratory]
) -> None:
    lab = laboratory(model="gpt2")  # it has dropout
    first = lab.run(method, precision=precision)
    rows = lab.scores(first)
    torch.manual_seed(999)  # whatever ran before
    second = lab.run(method, precision=precision)
    assert lab.scores(second) == rows
    assert second.evaluations == first.evaluations
    assert second.weights == first.weights
    assert second.samples == first.samples


def test_another_seed_is_another_run(laboratory: Callable[..., Laboratory]) -> None:
    lab = laboratory()
    assert lab.scores(lab.run(FullMethod(), seed=4)) != lab.scores(lab.run(FullMethod(), seed=3))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("task", "model"), [("sft", "llama"), ("classify", "llama")])
def test_every_arm_sees_the_same_batches_and_computes_the_same_first_loss(
    task: str, model: str, precision: str, laboratory: Callable[..., Laboratory]
) -> None:
    lab = laboratory(task, model)
    logs = []
    for method in (FullMethod(), LoraMethod(), LoraMethod(rank=2, targets="qkv", variant="rslora")):
        record = lab.run(method, role="tune", precision=precision)
        logs.append(lab.ledger.steps(record.run_id))
    for log in logs[1:]:
        assert log[0]["loss"] == logs[0][0]["loss"]
        for one, other in zip(log, logs[0], strict=True):
            assert (one["num_targets"], one["num_tokens"]) == (other["num_targets"], other["num_tokens"])
    assert logs[0][-1]["loss"] != logs[1][-1]["loss"]


# --- the checkpoint rule


def test_the_scores_are_those_of_the_best_evaluation(laboratory: Callable[..., Laboratory]) -> None:
    lab = laboratory()
    train = TRAIN.replace(epochs=12, evaluations=12).model_dump()
    record = lab.run(FullMethod(), train=train, learning_rate=2e-2)
    losses = {e.step: e.selection_loss for e in record.evaluations}
    assert record.selected_step == min(losses, key=lambda step: losses[step])
    assert record.selected_step < record.num_steps, "it must overfit, or the test shows nothing"
    valid = lab.scores(record, "valid")
    mean = math.fsum(nll_column(valid)) / sum(row["num_tokens"] for row in valid)
    chosen = next(e for e in record.evaluations if e.step == record.selected_step)
    assert mean == pytest.approx(chosen.nll, rel=1e-9)
    plain = AutoModelForCausalLM.from_pretrained(lab.weights(record))
    assert nll_column(valid) == pytest.approx(lab.nll(plain, "valid"), rel=1e-4)
    assert nll_column(lab.scores(record, "test")) == pytest.approx(lab.nll(plain, "test"), rel=1e-4)


@pytest.mark.parametrize("method", [FullMethod(), LoraMethod(rank=4)], ids=["full", "lora"])
def test_texts_that_select_are_those_of_the_weights_that_are_kept(
    method: Any, laboratory: Callable[..., Laboratory]
) -> None:
    """`select_by`: every evaluation has a right or wrong for each validation row, and ties go to the lower NLL."""
    lab = laboratory()
    metric = MetricSpec(name="own", extract="w[0-9]*[02468]", kind="matches")
    train = TRAIN.replace(epochs=12, evaluations=12).model_dump()
    record = lab.run(method, train=train, learning_rate=2e-2, select_by=metric.model_dump())
    plain = lab.run(method, train=train, learning_rate=2e-2)
    assert [e.nll for e in record.evaluations] == [e.nll for e in plain.evaluations], "writing changes no training"
    assert len({e.accuracy for e in record.evaluations}) > 1, "or the test shows nothing"
    for one in record.evaluations:
        assert one.right is not None
        assert len(one.right) == len(LENGTHS["valid"])
        assert one.accuracy == one.right.count("1") / len(one.right)
    chosen = next(e for e in record.evaluations if e.step == record.selected_step)
    tokenizer = AutoTokenizer.from_pretrained(lab.model)
    kind = AutoModelForCausalLM if method.method == "full" else AutoPeftModelForCausalLM
    model = kind.from_pretrained(lab.weights(record))
    right = []
    for example in lab.examples["valid"]:
        ids = torch.tensor([list(example.input_ids[: example.supervised.index(True)])])
        ends = stop_ids(inner_model(model), tokenizer)
        out = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, eos_token_id=list(ends))
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        right.append(re.search(metric.extract or "", text) is not None)
    assert chosen.right == "".join(str(int(is_right)) for is_right in right)


def test_the_base_says_what_the_gain_of_selection_by_texts_is_counted_from(
    laboratory: Callable[..., Laboratory],
) -> None:
    lab = laboratory()
    (before,) = lab.run(BaseMethod(), role="base", select_by={"name": "exact_match"}).evaluations
    assert before.right is not None
    assert before.selection_loss > 1 - before.right.count("1") / 4 - 1e-9


def test_the_last_checkpoint_carries_the_scores_where_that_was_declared(laboratory: Callable[..., Laboratory]) -> None:
    lab = laboratory()
    train = TRAIN.replace(epochs=12, evaluations=12).model_dump()
    record = lab.run(FullMethod(), train=train, learning_rate=2e-2, checkpoint="last")
    assert record.selected_step == record.num_steps == 36
    plain = AutoModelForCausalLM.from_pretrained(lab.weights(record))
    assert nll_column(lab.scores(record, "valid")) == pytest.approx(lab.nll(plain, "valid"), rel=1e-4)


@pytest.mark.parametrize(
    ("evaluations", "max_steps", "expected"), [(4, 2, [1, 2]), (1, 5, [5]), (3, 10, [3, 7, 10]), (9, 1, [1])]
)
def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(
    evaluations: int, max_steps: int, expected: list[int], laboratory: Callable[..., Laboratory]
) -> None:
    train = TRAIN.replace(evaluations=evaluations, max_steps=max_steps).model_dump()
    record = laboratory().run(FullMethod(), role="tune", train=train)
    assert [e.step for e in record.evaluations] == expected


# --- precision


def test_in_mixed_precision_selection_sees_bf16_and_the_test_scores_are_fp32(
    laboratory: Callable[..., Laboratory],
) -> None:
    lab = laboratory()
    for method, auto in ((FullMethod(), AutoModelForCausalLM), (LoraMethod(), AutoPeftModelForCausalLM)):
        record = lab.run(method, precision="bf16")
        plain = auto.from_pretrained(lab.weights(record))
        assert {p.dtype for p in plain.parameters()} == {torch.float32}
        assert nll_column(lab.scores(record, "test")) == pytest.approx(lab.nll(plain, "test"), rel=1e-5)
        in_fp32 = lab.nll(plain, "valid")
        assert nll_column(lab.scores(record, "valid")) != pytest.approx(in_fp32, rel=1e-6)
        assert nll_column(lab.scores(record, "valid")) == pytest.approx(in_fp32, rel=0.05)


# --- failures


@pytest.mark.parametrize("method", [FullMethod(), LoraMethod()], ids=["full", "lora"])
def test_a_rate_at_which_training_diverges_is_scored_as_the_untrained_model(
    method: Any, laboratory: Callable[..., Laboratory]
) -> None:
    lab = laboratory()
    record = lab.run(method, learning_rate=1e6)
    assert record.status == "diverged"
    assert record.message is not None
    assert "step" in record.message
    assert (record.selected_step, record.evaluations) == (None, ())
    base = lab.run(BaseMethod(), role="base")
    for split in ("valid", "test", "general"):
        assert nll_column(lab.scores(record, split)) == pytest.approx(nll_column(lab.scores(base, split)), rel=1e-6)


def test_a_classifier_that_diverges_at_once_is_scored_with_the_head_it_began_with(
    laboratory: Callable[..., Laboratory],
) -> None:
    lab = laboratory("classify", "bert")
    changes = {"learning_rate": 1e12, "head_learning_rate": 1e12}
    base = lab.run(BaseMethod(), role="base")
    for method in (FullMethod(), LoraMethod()):
        record = lab.run(method, **changes)
        assert record.status == "diverged"
        assert nll_column(lab.scores(record, "test")) == pytest.approx(nll_column(lab.scores(base, "test")), rel=1e-6)


def test_a_run_that_diverges_late_is_scored_at_its_best_evaluation(
    laboratory: Callable[..., Laboratory], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunewise.lab.run import training as module

    lab = laboratory()
    whole_train = module.train

    def breaks_after_five(model: torch.nn.Module, steps: Any, loop: Any) -> Any:
        for step in whole_train(model, steps, loop):
            yield step
            if step.step == 5:
                raise module.DivergedError("step 6: loss nan, gradient norm nan")

    monkeypatch.setattr(module, "train", breaks_after_five)
    record = lab.run(FullMethod())
    assert (record.status, record.num_steps, record.selected_step) == ("diverged", 5, 3)
    plain = AutoModelForCausalLM.from_pretrained(lab.weights(record))
    assert nll_column(lab.scores(record, "test")) == pytest.approx(lab.nll(plain, "test"), rel=1e-4)


def test_a_loss_on_valid_that_is_no_number_is_a_divergence(
    laboratory: Callable[..., Laboratory], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunewise.lab.run import training as module

    def broken(rows: Any, step: int) -> Any:
        return summarise(rows, step).replace(nll=1.0) if step < 6 else Unending(step)

    class Unending:
        nll = math.nan

        def __init__(self, step: int) -> None:
            self.step = step

    summarise = module.summarise
    monkeypatch.setattr(module, "summarise", broken)
    record = laboratory().run(FullMethod(), role="tune")
    assert (record.status, record.selected_step) == ("diverged", 3)


# --- models from elsewhere


@pytest.mark.parametrize("method", [FullMethod(), LoraMethod()], ids=["a model", "an adapter"])
def test_an_existing_model_is_scored_like_the_run_that_made_it(
    method: Any, laboratory: Callable[..., Laboratory]
) -> None:
    lab = laboratory()
    made = lab.run(method)
    record = lab.run(ExistingMethod(path=str(lab.weights(made))))
    assert record.status == "done"
    assert record.tuned is None
    for split in ("test", "general"):
        assert lab.scores(record, split) == lab.scores(made, split)
    assert nll_column(lab.scores(record, "valid")) == pytest.approx(nll_column(lab.scores(made, "valid")), rel=1e-5)


def test_adalora_runs_from_spec_to_scores(laboratory: Callable[..., Laboratory]) -> None:
    lab = laboratory()
    options = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 2, "deltaT": 1}
    record = lab.run(PeftMethod(type="ADALORA", options=options), checkpoint="last")
    assert record.status == "done"
    plain = AutoPeftModelForCausalLM.from_pretrained(lab.weights(record))
    assert nll_column(lab.scores(record, "test")) == pytest.approx(lab.nll(plain, "test"), rel=1e-4)
    assert nll_column(lab.scores(record, "valid")) == pytest.approx(lab.nll(plain, "valid"), rel=1e-4)


# --- forgetting


def test_the_forgetting_curve_starts_at_the_base_and_ends_with_the_last_weights(
    laboratory: Callable[..., Laboratory],
) -> None:
    lab = laboratory("sft")
    record = lab.run(FullMethod(), checkpoint="last")
    rows = pq.read_table(lab.ledger.forgetting_path(record.run_id)).to_pylist()
    assert sorted({row["step"] for row in rows}) == [0, 4, 9], "two points of nine steps, and the untrained model"
    assert record.files.keys() >= {"forgetting.parquet"}

    def general(found: list[dict[str, Any]]) -> float:
        return sum(row["nll"] for row in found) / sum(row["num_tokens"] for row in found)

    base = lab.run(BaseMethod(), role="base")
    for step, scored in ((0, base), (9, record)):
        expected = general([row for row in lab.scores(scored) if row["split"] == "general"])
        assert general([row for row in rows if row["step"] == step]) == pytest.approx(expected, rel=1e-6)
    (valid_nll,) = {row["valid_nll"] for row in rows if row["step"] == 9}
    assert valid_nll == pytest.approx(record.evaluations[-1].nll)


def test_a_device_that_torch_does_not_find_is_refused_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="machine.device: torch finds no cuda here, only cpu"):
        require_device("cuda")
    require_device("cpu")
