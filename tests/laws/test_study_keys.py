"""Law 34: every key of a study file is read: for each key of its schema another value changes something."""

import json
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel
from small_studies import FolderOf
from study_keys import (
    Bench,
    Probe,
    afforded,
    asked,
    checkpointed,
    confirmed,
    counted,
    described,
    hosted,
    kept,
    limited,
    parted,
    placed,
    prepared,
    reported,
    reused,
    submitted,
    trained,
)

from tunewise.spec import StudySpec
from tunewise.spec.reading import parse_study, set_key

BASE: dict[str, Any] = {
    "name": "law",
    "model": "@llama",
    "data": {"train": "@train.jsonl", "valid": "@valid.jsonl", "test": "@test.jsonl"},
    "arms": {"arm": {"method": "full", "learning_rate": 1e-3}},
    "train": {"max_steps": 4, "batch_size": 4, "evaluations": 1},
    "tuning": {"rates": 1, "cap": 1},
    "looks": [1],
    "forgetting": {"tokens": 0},
    "samples": {"count": 0},
    "machine": {"device": "cpu", "precision": "fp32", "threads": 1},
}


@dataclass(frozen=True)
class Row:
    """How a key shows that it is read: with `value` the probe sees something else than without."""

    probe: Probe
    value: Any
    given: dict[str, Any] = field(default_factory=dict)  # what else the study says, the key's own first value included


ALL = {"data": {"train": "@all.jsonl"}}
CLASSES = {"task": "classify", "model": "@bert", "data": {"train": "@classes.jsonl"}}
SEARCH = {"tuning": {"rates": 3, "cap": 7}, "arms.arm.learning_rate": 0.05}
FIXED = {"protocol": "fixed", "looks": [3]}  # always takes its half-steps
# learns to write two words again and again, which makes its validation loss worse
WORDY = {"data.train": "@wordy.jsonl", "train.max_steps": 8, "arms.arm.learning_rate": 0.02}
WRITTEN = {**WORDY, "samples": {"count": 1, "max_new_tokens": 2}}
FORGETS = {"forgetting": {"text": "@general.txt", "tokens": 60, "points": 2}}
CHAT = {"data": {"train": "@chat.jsonl", "chat_template": "@first.jinja"}}
JOBS = {"machine": {"executor": "slurm", "slurm": {}}}
TEXTS = {"task": "lm", "data": {"train": "@documents.txt"}}


def rates(method: dict[str, Any]) -> dict[str, Row]:
    """The keys that every trained method has."""
    task = {"task": "classify"} if method["method"] == "head" else {}
    return {
        f"arms.{method['method']}.learning_rate": Row(asked, 2e-3, {**task, "arms": {"arm": method}}),
        f"arms.{method['method']}.rates": Row(asked, [1e-3, 2e-3], {**task, "arms": {"arm": method}}),
    }


LORA = {"arms": {"arm": {"method": "lora", "learning_rate": 1e-2}}}
AUTO = {"arms": {"arm": {"method": "lora", "rank": "auto", "max_rank": 2, "learning_rate": 1e-2}}}
IA3 = {"arms": {"arm": {"method": "peft", "type": "IA3", "learning_rate": 1e-2}}}

SECOND = {
    **SEARCH,
    "looks": [3],
    "metrics": [{"name": "exact_match"}],
    "secondary": {"metric": "bits_per_byte", "margin": "0.02"},
}

OWN = {
    **WRITTEN,
    "train.evaluations": 4,
    "metrics": [{"name": "own", "extract": "w[0-9]+", "kind": "matches"}],
    "primary": "own",
    "margin": "1pp",
}

# A new key of the schema needs a row here, which says what it changes.
TABLE: dict[str, Row] = {
    "name": Row(kept, "another"),
    "model": Row(described, "@mistral"),
    "trust_remote_code": Row(described, True, {"model": "@remote"}),
    "task": Row(prepared, "lm", {"data": {"train": "@all.jsonl", "columns": {"text": "prompt"}}, "task": "sft"}),
    "accept_stale": Row(reused, True),
    "protocol": Row(reported, "fixed", {**SEARCH, "looks": [3, 5], "margin": "0.006"}),
    "looks": Row(asked, [2]),
    "studies_per_test_set": Row(reported, 5, {**SEARCH, "looks": [3]}),
    "seed": Row(asked, 3),
    "checkpoint": Row(trained, "last", {**WORDY, "train.evaluations": 4}),
    "margin": Row(reported, "0.001", {**SEARCH, "looks": [3]}),
    "primary": Row(reported, "bits_per_byte", {**SEARCH, "looks": [3], "margin": "0.02"}),
    "select_by": Row(trained, "primary", OWN),
    "secondary.metric": Row(reported, "exact_match", SECOND),
    "secondary.margin": Row(reported, "0.0001", SECOND),
    "cost": Row(reported, "saved_bytes", {**SEARCH, "looks": [3], "margin": "0.1"}),
    "keep": Row(kept, "all", {"looks": [2]}),
    "budget": Row(afforded, "10min", {**SEARCH, "looks": [5, 10]}),
    "sets": Row(parted, {"a": {"train": "@train.jsonl"}, "b": {"train": "@other.jsonl"}}),
    "data.train": Row(prepared, "@other.jsonl"),
    "data.valid": Row(prepared, "@other.jsonl"),
    "data.test": Row(prepared, "@other.jsonl"),
    "data.columns": Row(prepared, {"prompt": "question"}),
    "data.roles": Row(prepared, {"tool": "gpt"}, {"data": {"train": "@spoken.jsonl", "chat_template": "@first.jinja"}}),
    "data.delimiter": Row(prepared, "|", {"data": {"train": "@cells.csv"}}),
    "data.template": Row(prepared, "w7 {prompt}"),
    "data.separator": Row(prepared, " w9 "),
    "data.chat_template": Row(prepared, "@second.jinja", CHAT),
    "data.document_separator": Row(prepared, "\n\n", TEXTS),
    "data.group": Row(prepared, "source"),
    "data.split.valid": Row(prepared, 0.3, ALL),
    "data.split.test": Row(prepared, 0.3, ALL),
    "data.limit.train": Row(prepared, 3),
    "data.limit.valid": Row(prepared, 3),
    "data.limit.test": Row(prepared, 3),
    "data.max_length": Row(prepared, 8, {"data.max_truncated": 1.0, "data.template": "w5 w6 w7 w8 {prompt}"}),
    "data.max_truncated": Row(prepared, 1.0, {"data.max_length": 8, "data.template": "w5 w6 w7 w8 {prompt}"}),
    "data.resample": Row(confirmed, True, ALL),
    "data.duplicates": Row(prepared, "keep", {"data.train": "@repeated.jsonl"}),
    **rates({"method": "full"}),
    **rates({"method": "lora"}),
    **rates({"method": "head"}),
    **rates({"method": "peft", "type": "IA3"}),
    "arms.full.extract": Row(confirmed, [2]),
    "arms.lora.rank": Row(described, 4, LORA),
    "arms.lora.max_rank": Row(described, 4, AUTO),
    "arms.lora.alpha": Row(described, 16, LORA),
    "arms.lora.init_scale": Row(trained, 4.0, LORA),
    "arms.lora.dropout": Row(trained, 0.5, LORA),
    "arms.lora.targets": Row(described, "qkv", LORA),
    "arms.lora.variant": Row(described, "rslora", LORA),
    "arms.lora.base": Row(trained, "nf4", LORA),
    "arms.peft.type": Row(described, "LOHA", IA3),
    "arms.peft.options": Row(described, {"target_modules": "qkv"}, IA3),
    "arms.existing.path": Row(confirmed, "@drawn again", {"arms": {"arm": {"method": "existing", "path": "@llama"}}}),
    "arms.existing.paths": Row(
        confirmed,
        ["@drawn again", "@llama"],
        {"arms": {"arm": {"method": "existing", "paths": ["@llama", "@drawn again"]}}, "looks": [2]},
    ),
    "train.epochs": Row(trained, 2, {"train": {"epochs": 1, "evaluations": 1}}),
    "train.max_steps": Row(trained, 5),
    "train.batch_size": Row(trained, 3),
    "train.micro_batch_tokens": Row(trained, 20),
    "train.gradient_checkpointing": Row(trained, True),
    "train.schedule": Row(trained, "constant"),
    "train.warmup": Row(trained, 0.6),
    "train.weight_decay": Row(trained, 0.5),
    "train.betas": Row(trained, [0.5, 0.999]),
    "train.epsilon": Row(trained, 0.1),
    "train.clip_norm": Row(trained, 1e-3, {"train.epsilon": 0.1}),
    "train.evaluations": Row(trained, 2),
    "train.head_learning_rate": Row(trained, 0.5, {**CLASSES, "train.head_learning_rate": 0.01}),
    "tuning.rates": Row(asked, 5, SEARCH),
    "tuning.spacing": Row(asked, 2.0, SEARCH),
    "tuning.cap": Row(asked, 5, {**SEARCH, **FIXED}),
    "tuning.seeds": Row(asked, 2, SEARCH),
    "tuning.half_steps": Row(asked, False, {**SEARCH, **FIXED}),
    "tuning.search": Row(asked, "short", {"tuning": {"rates": 7, "cap": 7}, "train": {"epochs": 2}}),
    "forgetting.text": Row(confirmed, "@other.txt", FORGETS),
    "forgetting.tokens": Row(confirmed, 90, FORGETS),
    "forgetting.points": Row(confirmed, 4, FORGETS),
    "samples.count": Row(confirmed, 2, WRITTEN),
    "samples.max_new_tokens": Row(confirmed, 5, WRITTEN),
    "metrics.name": Row(confirmed, "length", {**WRITTEN, "metrics": [{"name": "exact_match"}]}),
    "metrics.extract": Row(confirmed, "w[0-5]", {**WRITTEN, "metrics": [{"name": "matches", "extract": "w"}]}),
    "metrics.kind": Row(confirmed, "matches", {**WRITTEN, "metrics": [{"name": "own", "extract": "w[0-9]+"}]}),
    "machine.device": Row(trained, "mps"),
    "machine.precision": Row(trained, "bf16"),
    "machine.threads": Row(trained, 2),
    "machine.checkpoint_seconds": Row(checkpointed, 0),  # after every step
    "machine.run_limit_seconds": Row(limited, 7.0),
    "machine.executor": Row(hosted, "ray"),
    "machine.slurm.partition": Row(submitted, "long", JOBS),
    "machine.slurm.account": Row(submitted, "lab", JOBS),
    "machine.slurm.qos": Row(submitted, "low", JOBS),
    "machine.slurm.constraint": Row(submitted, "a100", JOBS),
    "machine.slurm.time": Row(submitted, "2:00:00", JOBS),
    "machine.slurm.memory": Row(submitted, "32G", JOBS),
    "machine.slurm.gpus_per_run": Row(submitted, 1, JOBS),
    "machine.workers": Row(placed, 3),
    "machine.devices_per_run": Row(placed, 2, {"machine.workers": "auto", "machine.threads": 2}),
    "machine.exclusive_timing": Row(placed, True, {"machine.workers": 2}),
    "machine.test_set_ledger": Row(counted, False, {**SEARCH, "looks": [3]}),
    "machine.price_per_hour": Row(reported, 2.5),
    "machine.currency": Row(reported, "EUR", {"machine.price_per_hour": 2.5}),
    "machine.scoring": Row(confirmed, "stored", {"machine": {"precision": "bf16"}, **LORA}),
    "machine.attention": Row(trained, "eager", {"machine.attention": "sdpa"}),
}


def keys_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every key that a study file may hold, those of sections inside it; of an arm behind the name of its method."""
    for name, about in model.model_fields.items():
        inner = [kind for kind in _parts(about.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if len(typing.get_args(about.annotation)) == 1 and typing.get_origin(about.annotation) is typing.Literal:
            continue  # the name of a method, which says which keys an arm has
        if name == "sets":  # whose keys are those of `data`
            yield name
            continue
        if not inner:
            yield before + name
        for kind in inner:
            tag = kind.model_fields["method"].default + "." if "method" in kind.model_fields else ""
            yield from keys_of(kind, f"{before}{name}.{tag}")


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in typing.get_args(annotation):
        yield from _parts(part)


def study_of(bench: Bench, key: str, value: Any, given: dict[str, Any]) -> StudySpec:
    """The base study with what is given, and with `value` under the key."""
    content = json.loads(json.dumps(BASE))
    for name, other in given.items():
        set_key(content, name, json.loads(json.dumps(other)))
    if value is not None:
        section, _, rest = key.partition(".")
        if section == "arms":
            content["arms"]["arm"][rest.partition(".")[2]] = value
        elif section == "metrics":
            content["metrics"][0][rest] = value
        else:
            set_key(content, key, value)
    return parse_study(_with_paths(bench, content), "law 34")


def _with_paths(bench: Bench, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_paths(bench, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_paths(bench, inner) for inner in value]
    return bench.path(value[1:]) if isinstance(value, str) and value.startswith("@") else value


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, folder_of: FolderOf) -> Bench:
    return Bench(tmp_path_factory.mktemp("keys"), folder_of)


def test_law_34_every_key_of_the_schema_has_a_row_that_says_what_it_changes() -> None:
    """Law 34: no key without a row, no row without a key."""
    keys = set(keys_of(StudySpec))
    assert keys - TABLE.keys() == set(), "in the schema, without a row: what do they change?"
    assert TABLE.keys() - keys == set(), "no longer in the schema"


@contextmanager
def unread(key: str, study: StudySpec) -> Iterator[None]:
    """As if nothing read the key: whoever asks for its value is given that of `study`."""
    *sections, name = key.split(".")
    holder: Any = study
    for section in sections:
        if section == "arms":
            holder = study.arms["arm"]
            break
        holder = getattr(holder, section)
    holder = holder[0] if isinstance(holder, tuple) else holder
    value = getattr(holder, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(holder), "__getattribute__", lambda of, asked: value if asked == name else _read(of, asked))
        yield


_read = object.__getattribute__


@pytest.mark.slow
@pytest.mark.parametrize("key", TABLE)
def test_law_34_another_value_of_a_key_changes_what_happens(key: str, bench: Bench) -> None:
    """Law 34: with another value the probe sees something else; and not so if the code were given the first value
    whenever it reads the key, so that it is the reading that changes what happens."""
    row = TABLE[key]
    first, other = (study_of(bench, key, value, row.given) for value in (None, row.value))
    before = row.probe(bench, first)
    assert row.probe(bench, other) != before
    with unread(key, first):
        assert row.probe(bench, other) == before
