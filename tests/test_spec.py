"""Laws of the specifications: ids, defaults that validate, mistakes that name what was meant."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from builders import make_inputs, make_run_spec
from tunewise.spec import (
    MAX_SEEDS,
    METHOD_SPECS,
    ExistingMethod,
    FullMethod,
    LoraMethod,
    Margin,
    MetricSpec,
    PeftMethod,
    RunSpec,
    StudySpec,
    TrainSpec,
    TuningSpec,
    canonical_json,
    parse_margin,
)

# What may differ between two runs that give the same result: names, paths (their contents are hashed), search centers.
NOT_IN_THE_ID = {
    ("arm",),
    ("role",),
    ("model",),
    ("method", "learning_rate"),
    ("method", "rates"),
    ("method", "path"),
    ("method", "paths"),
    ("train", "head_learning_rate"),
}
METHODS = {
    "full": FullMethod(),
    "lora": LoraMethod(targets=("q_proj", "v_proj")),
    "peft": PeftMethod(type="IA3", options={"init_ia3_weights": True}),
    "existing": ExistingMethod(path="adapter"),
}
WORDS = (
    *(
        "cpu",
        "cuda",
        "fp32",
        "bf16",
        "best",
        "last",
        "sft",
        "lm",
        "linear",
        "cosine",
        "plain",
        "rslora",
        "eager",
        "stored",
        "sdpa",
    ),
    *("valid", "test", "base", "tune", "confirm", "matches", "something else"),
)


def run_spec(method: Any = None) -> RunSpec:
    return make_run_spec(
        method=method or FullMethod(),
        metrics=(MetricSpec(name="a_number", extract="x"),),
        forgetting_points=10,
        threads=2,
        inputs=make_inputs(general="g", versions={"torch": "2.13"}),
    )


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested plain data that holds no others."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def changed(spec: RunSpec, path: tuple[Any, ...]) -> list[RunSpec]:
    """All valid specs in which the value at `path` is another one."""
    content = spec.model_dump(mode="json")
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    before = holder[path[-1]]
    found = []
    if path[-1] == "select_by":  # the whole metric, or none
        return [spec.replace(select_by=MetricSpec(name="exact_match"))]
    if path[-1] == "max_rank":  # goes with it alone
        holder["rank"] = "auto"
    for other in (not before, 7, 0.37, *WORDS, {"a": 1}, [0.37], [7]):
        holder[path[-1]] = other
        try:
            new = RunSpec.model_validate(content)
        except ValidationError:
            continue
        if new != spec:
            found.append(new)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_the_run_id_changes_with_everything_that_can_change_the_result_and_with_nothing_else(method: str) -> None:
    spec = run_spec(METHODS[method])
    paths = [path for path in leaves(spec.model_dump(mode="json")) if path != ("method", "method")]
    assert {path[0] for path in paths} == set(RunSpec.model_fields), "a field that the walk does not reach"
    for path in paths:
        others = changed(spec, path)
        assert others, f"no other value found for {path}: the walk tests nothing there"
        for other in others:
            assert (other.run_id == spec.run_id) == (path in NOT_IN_THE_ID), path


def test_runs_of_different_methods_have_different_ids() -> None:
    assert len({run_spec(method).run_id for method in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_run_id_survives_json_and_the_order_of_keys(method: str) -> None:
    spec = run_spec(METHODS[method])
    stored = json.loads(spec.model_dump_json())
    backwards = {key: stored[key] for key in reversed(stored)}
    assert RunSpec.model_validate(backwards).run_id == spec.run_id
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


def test_canonical_json_refuses_what_has_no_one_text_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"rate": float("nan")})


# --- studies


def study(**changes: Any) -> StudySpec:
    content = {"name": "s", "data": {"train": "train.jsonl"}, "arms": {"full": {"method": "full"}}}
    return StudySpec.model_validate({**content, **changes})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"method": "full"}, {"method": "full"}),
        ({"method": "full"}, {"method": "full", "learning_rate": 1e-3}),
        ({"method": "full"}, {"method": "full", "rates": [1e-3]}),
        ({"method": "lora"}, {"method": "lora", "rank": 8}),
        (
            {"method": "peft", "type": "IA3", "options": {"a": 1, "b": 2}},
            {"method": "peft", "type": "IA3", "options": {"b": 2, "a": 1}},
        ),
        ({"method": "existing", "path": "x"}, {"method": "existing", "path": "x"}),
    ],
)
def test_two_arms_that_would_be_the_same_runs_are_refused_by_name(one: Any, other: Any) -> None:
    with pytest.raises(ValidationError, match="arms 'first' and 'second' are the same"):
        study(arms={"first": one, "second": other})


def test_arms_that_differ_in_anything_but_the_centre_of_the_search_stand_side_by_side() -> None:
    arms = {"a": {"method": "lora"}, "b": {"method": "lora", "rank": 4}, "c": {"method": "lora", "variant": "rslora"}}
    assert list(study(arms=arms).arms) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["base", "", "a b", "a/b", "..", "a.b", "full\n", "-a", "ä", "x" * 65])
def test_an_arm_name_that_is_no_plain_word_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is not allowed"):
        study(arms={name: {"method": "full"}})


@pytest.mark.parametrize("name", ["", "a b", "../up", "/abs", "s\n", ".hidden"])
def test_a_study_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        study(name=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"looks": [0]},
        {"looks": [-3]},
        {"looks": []},
        {"looks": [MAX_SEEDS + 1]},
        {"seed": -1},
        {"train": {"betas": [1.0, 0.9]}},
        {"train": {"betas": [0.9, -0.1]}},
        {"train": {"warmup": 1.0}},
        {"train": {"batch_size": 0}},
        {"train": {"weight_decay": float("inf")}},
        {"train": {"head_learning_rate": 0}},
        {"tuning": {"rates": 5, "cap": 4}},
        {"tuning": {"spacing": 1.0}},
        {"arms": {"l": {"method": "lora", "rank": 0}}},
        {"arms": {"l": {"method": "lora", "learning_rate": -1e-3}}},
        {"arms": {"l": {"method": "lora", "alpha": float("nan")}}},
        {"arms": {}},
        {"data": {"train": "t", "columns": {"prmpt": "question"}}},
    ],
)
def test_values_that_cannot_be_run_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        study(**changes)


@given(seeds=st.lists(st.integers(0, 1_000_000), unique=True, min_size=2, max_size=5), looks=st.integers(1, MAX_SEEDS))
def test_no_seed_is_used_twice_within_a_study_or_by_two_studies_with_other_seeds(seeds: list[int], looks: int) -> None:
    used: list[int] = []
    for seed in seeds:
        asked = study(seed=seed, looks=[looks], tuning={"seeds": 4})
        used += [*asked.search_seeds(), *asked.confirmation_seeds()]
    assert len(set(used)) == len(used)
    assert all(0 <= seed < 2**32 for seed in used), "what numpy takes as a seed"


def test_every_epoch_ends_near_an_evaluation_and_the_last_one_is_at_the_end() -> None:
    """Five epochs of ten steps with evaluations: 2 are evaluated five times; given steps know no epochs."""
    assert TrainSpec(epochs=5, evaluations=2).evaluation_steps(50) == {10, 20, 30, 40, 50}
    assert TrainSpec(epochs=2, evaluations=4).evaluation_steps(20) == {5, 10, 15, 20}
    assert TrainSpec(epochs=5, evaluations=2, max_steps=50).evaluation_steps(50) == {25, 50}
    few, many = (run_spec().replace(train=TrainSpec(epochs=5, evaluations=n).model_dump()) for n in (2, 5))
    assert few.run_id == many.run_id, "the same run"


def test_search_and_confirmation_seeds_are_disjoint_across_the_first_thousands_of_studies() -> None:
    confirmations = set(
        itertools.chain.from_iterable(study(seed=s, looks=[3]).confirmation_seeds() for s in range(3000))
    )
    assert not confirmations & {study(seed=s).search_seeds()[0] for s in range(3000)}


def test_more_looks_keep_the_seeds_that_were_there() -> None:
    assert study(looks=[10]).confirmation_seeds()[:5] == study(looks=[5]).confirmation_seeds()


def test_replace_validates_like_a_new_spec_and_leaves_the_old_one_alone() -> None:
    before = TrainSpec()
    with pytest.raises(ValidationError, match="batch_size"):
        before.replace(batch_size=0)
    with pytest.raises(ValidationError, match="no_such_key"):
        before.replace(no_such_key=1)
    with pytest.raises(ValidationError, match="at least tuning.rates"):
        TuningSpec().replace(cap=1)
    assert before.replace(batch_size=4).batch_size == 4
    assert before == TrainSpec()


def test_replace_keeps_nested_specs_and_arms() -> None:
    before = study(arms={"l": {"method": "lora", "targets": ["a", "b"]}, "p": {"method": "peft", "type": "IA3"}})
    assert before.replace(seed=before.seed) == before
    assert before.replace(arms={"l": before.arms["l"]}).arms == {"l": before.arms["l"]}


def test_specs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainSpec().epochs = 5  # type: ignore[misc]


@pytest.mark.parametrize("kind", METHOD_SPECS)
def test_every_method_refuses_an_unknown_key(kind: str) -> None:
    needed = {"peft": {"type": "IA3"}, "existing": {"path": "x"}}.get(kind, {})
    METHOD_SPECS[kind].model_validate({"method": kind, **needed})
    with pytest.raises(ValidationError, match="no_such_key"):
        METHOD_SPECS[kind].model_validate({"method": kind, **needed, "no_such_key": 1})


def test_the_scale_of_lora_is_alpha_by_rank_and_of_rslora_alpha_by_its_root() -> None:
    assert LoraMethod(rank=16, alpha=32).scale == 2
    assert LoraMethod(rank=16, alpha=32, variant="rslora").scale == 8


def test_the_number_of_steps_covers_every_row_of_every_epoch_unless_it_is_given() -> None:
    train = TrainSpec(epochs=3, batch_size=16)
    assert train.num_steps(16) == 3
    assert train.num_steps(17) == 6
    assert train.replace(max_steps=5).num_steps(10_000) == 5


# --- margins


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        ("0.02", Margin(absolute=0.02)),
        (".5", Margin(absolute=0.5)),
        ("1e-3", Margin(absolute=0.001)),
        ("1pp", Margin(absolute=0.01)),
        (" 1.5 pp ", Margin(absolute=0.015)),
        ("5% of gain", Margin(share_of_gain=0.05)),
        ("12.5 %  of gain", Margin(share_of_gain=0.125)),
    ],
)
def test_a_margin_is_read_as_it_is_said(text: str, margin: Margin) -> None:
    found = parse_margin(text)
    assert found.absolute == pytest.approx(margin.absolute)
    assert found.share_of_gain == pytest.approx(margin.share_of_gain)
    assert study(margin=text).margin == text


@pytest.mark.parametrize("text", ["abc", "5%", "-1", "1.2.3", ".", "", "nan", "5% of the gain", "1 e-3"])
def test_a_margin_that_is_not_understood_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValidationError, match="is not valid. Write '0.02'"):
        study(margin=text)


@pytest.mark.parametrize("text", ["0", "0pp", "0% of gain", "100% of gain"])
def test_a_margin_of_nothing_or_of_everything_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        study(margin=text)


def test_a_margin_written_as_a_number_is_kept_as_its_text() -> None:
    assert study(margin=0.05).margin == "0.05"
    with pytest.raises(ValidationError):
        study(margin=True)


# --- metrics of text, and what is judged


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([{"name": "blue"}], "unknown metric 'blue'. Did you mean 'bleu'"),
        ([{"name": "Answer", "extract": "x"}], "String should match pattern"),
        ([{"name": "accuracy", "extract": "x"}], "is not a metric of written text"),
        ([{"name": "answer"}], "A metric of your own needs `extract`"),
        ([{"name": "bleu", "kind": "matches"}], "bleu takes no `kind`"),
        ([{"name": "matches"}], "matches needs `extract`"),
        ([{"name": "bleu", "extract": "x"}], "bleu takes no `extract`"),
        ([{"name": "exact_match", "extract": "("}], "is not a regular expression"),
        ([{"name": "bleu"}, {"name": "length"}, {"name": "bleu"}], "'bleu' is named twice"),
    ],
)
def test_a_metric_that_cannot_be_counted_is_refused(metrics: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        study(metrics=metrics)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"primary": "perplexity"}, "perplexity is exp\\(nll\\)"),
        ({"primary": "bleu", "margin": "1pp"}, "'bleu' is not measured. Add {name: bleu} to metrics, .* Known: nll, "),
        ({"primary": "acuracy"}, "Did you mean 'accuracy'"),
        ({"primary": "bleu", "metrics": [{"name": "bleu"}]}, "bleu needs a margin"),
    ],
)
def test_a_verdict_about_what_cannot_be_judged_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        study(**changes)


def test_forgetting_may_be_a_file_alone() -> None:
    assert study(forgetting="general.txt").forgetting == study(forgetting={"text": "general.txt"}).forgetting
    assert study(forgetting={"tokens": 7}).forgetting.text == "builtin:pydoc-topics"


def test_a_metric_with_a_name_of_its_own_is_an_exact_match_unless_it_says_otherwise() -> None:
    asked = study(
        metrics=[
            {"name": "last_number", "extract": r"(\d+)\D*$"},
            {"name": "json", "extract": "^{", "kind": "matches"},
        ],
        primary="last_number",
        margin="1pp",
    )
    assert [metric.counted_as for metric in asked.metrics] == ["exact_match", "matches"]
    assert all(metric.is_own for metric in asked.metrics)
    assert not MetricSpec(name="length").is_own


def test_a_verdict_can_be_about_any_metric_that_is_measured() -> None:
    assert study().primary is None
    assert study(primary="accuracy").primary == "accuracy"
    assert study(primary="bleu", metrics=[{"name": "bleu"}], margin="1pp").primary == "bleu"
    assert study(primary="exact_match", metrics=[{"name": "exact_match", "extract": "#### (.*)"}]).margin is None


@pytest.mark.parametrize("tokens", [0, -1, 2.5, True, "many", None])
def test_micro_batches_are_a_number_of_tokens_or_automatic(tokens: object) -> None:
    assert study(train={"micro_batch_tokens": 7}).train.tokens_at_once == 7
    assert study(train={"micro_batch_tokens": "auto"}).train.micro_batch_tokens == "auto"
    with pytest.raises(ValidationError, match="a whole number of at least 1, or auto"):
        study(train={"micro_batch_tokens": tokens})
