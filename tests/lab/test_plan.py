"""Plans: the table of well-known models, the batches a plan is made for, what fits, what is saved."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from lab_fixtures import ENCODERS, LABELS, make_examples, small_config
from tunewise.desk.protocol.resolve import settled
from tunewise.errors import ModelError, SpecError
from tunewise.lab.data.batching import Batching, Example
from tunewise.lab.models.load import is_encoder
from tunewise.lab.plan.arm import largest, plan_arm
from tunewise.lab.plan.configurations import configuration, known_configurations
from tunewise.lab.plan.kernels import try_kernels
from tunewise.lab.plan.meta_model import blank_base, give_storage, with_small_values
from tunewise.lab.plan.setting import PlanContext, build
from tunewise.lab.plan.study import plan_study
from tunewise.lab.plan.workload import Workload, assumed_examples, workload
from tunewise.records.plan import MOST_TOKENS, TIGHT, ArmPlan, PlanRequest, StudyPlan
from tunewise.spec import NO_DATA, FullMethod, LoraMethod, Method, PeftMethod, StudySpec, TrainSpec

LORA = LoraMethod(rank=2)
KNOWN = known_configurations()


def setting(family: str, **changes: object) -> PlanContext:
    task = "classify" if family in ENCODERS else "sft"
    return replace(PlanContext(small_config(family), task, 3, None, TrainSpec(), 10, "cpu", "fp32", None), **changes)


def plan(family: str, examples: list[Example], memory_bytes: int, method: Method = LORA, **train: int) -> ArmPlan:
    of = setting(family, train=TrainSpec(**train))
    kernels = try_kernels(of, method)
    assert kernels is not None
    return plan_arm(of, workload(examples, of.train, 0, kernels.batching(of.train)), method, kernels, memory_bytes)


# --- configurations


@pytest.mark.parametrize("name", KNOWN)
def test_a_well_known_model_has_as_many_parameters_as_its_checkpoint(name: str) -> None:
    config = configuration(name, None, False)
    with torch.device("meta"):
        model = (AutoModel if is_encoder(config) else AutoModelForCausalLM).from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == KNOWN[name]["parameters"]


def test_a_well_known_model_is_asked_what_it_can_do_like_any_other() -> None:
    with pytest.raises(ModelError, match="does not generate text"):
        configuration("bert-base-uncased", "sft", False)


@pytest.mark.slow
def test_gpt2_with_lora_on_qkv_trains_what_peft_counts(tmp_path: Path) -> None:
    content = {"name": "n", "model": "gpt2", "data": {"train": NO_DATA, "max_length": 8}, "train": {"batch_size": 1}}
    study = StudySpec.model_validate({**content, "arms": {"lora": {"method": "lora", "rank": 8, "targets": "qkv"}}})
    tuned = plan_study(study, tmp_path, PlanRequest(device="cpu", precision="fp32")).arms["lora"].tuned
    assert tuned.trainable_parameters == 294_912
    assert f"{100 * tuned.trainable_parameters / tuned.total_parameters:.4f}" == "0.2364"


# --- what fits


def test_the_largest_micro_batch_fits_and_one_example_more_does_not() -> None:
    for memory_bytes, found in ((4, 0), (14, 0), (15, 1), (84, 7), (85, 8), (10**6, 8)):
        assert largest(lambda n: 5 + 10 * n, 8, memory_bytes, 5) == found
        assert largest(lambda n: 5 + 10 * n + 3 * n**3, 8, memory_bytes, 5) <= found


def test_few_steps_are_followed_to_find_the_largest_micro_batch() -> None:
    tried: list[int] = []

    def peak_bytes(n: int) -> int:
        tried.append(n)
        return 1000 + 10 * n

    assert largest(peak_bytes, 256, 1705, 1000) == 70
    assert tried == [256, 70, 71]
    assert largest(peak_bytes, 256, 999, 1000) == 0
    assert len(tried) == 3, "where weights and optimizer alone do not fit, nothing is followed"
    tried.clear()
    assert largest(peak_bytes, 100_000, 1000 + 10 * 5000, 1000) == 5000
    assert max(tried) == 16_384, "the largest batch would need gigabytes of indices"
    assert largest(peak_bytes, 100_000, 10**9, 1000) == 100_000


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), [("gpt2", FullMethod()), ("bert", PeftMethod(type="IA3"))])
def test_the_largest_micro_batch_of_a_plan_is_that_of_steps_that_were_followed(family: str, method: Method) -> None:
    is_classified = family in ENCODERS

    def step_bytes(num_examples: int) -> int:
        examples = make_examples([8] * 2 * num_examples, classify=is_classified)
        train = {"batch_size": 2 * num_examples, "micro_batch_tokens": 8 * num_examples}  # the gradient is there
        step = plan(family, examples, 10**9, method, **train).step
        assert step is not None
        return step.total

    one = make_examples([8], classify=is_classified)
    assert plan(family, one, step_bytes(3), method, batch_size=6).largest_micro_batch == 8 * 3
    assert plan(family, one, step_bytes(3) - 1, method, batch_size=6).largest_micro_batch == 8 * 2
    assert plan(family, one, step_bytes(1) - 1, method, batch_size=6).largest_micro_batch is None


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma", "phi3", "bert"])
def test_every_family_is_followed_from_one_example_on(family: str) -> None:
    found = plan(family, make_examples([8], classify=family in ENCODERS), 10**9, FullMethod())
    assert found.note is None
    assert found.step is not None
    assert found.step.weights >= found.saved_bytes
    assert found.step.optimizer >= 2 * found.saved_bytes


def test_a_model_that_cannot_be_followed_says_why_and_invents_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*arguments: object) -> None:
        torch.ones(1).nonzero().tolist()

    monkeypatch.setattr("tunewise.lab.plan.fake_step.example_losses", look)
    found = plan("gpt2", make_examples([8]), 10**9)
    assert (found.step, found.evaluation, found.flops_per_token, found.largest_micro_batch) == (None,) * 4
    assert found.note is not None
    assert "cannot be traced" in found.note
    assert found.tuned.trainable_parameters > 0


# --- arms that nobody wrote down


def classified(folder: Path, arms: dict[str, dict[str, object]]) -> StudyPlan:
    """Of raw rows on a small encoder with a tokenizer of its own."""
    rows = [{"text": f"w{n % 9 + 4} w{n % 7 + 4} w{n + 4}", "label": LABELS[n % 3]} for n in range(30)]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content = {"name": "n", "model": str(folder / "bert"), "data": {"train": str(file)}, "arms": arms}
    return plan_study(StudySpec.model_validate(content), folder, PlanRequest(device="cpu", precision="fp32"))


@pytest.mark.slow
def test_the_head_arm_that_a_classification_gets_is_planned_like_the_others(model_folder: Any, tmp_path: Path) -> None:
    (tmp_path / "bert").symlink_to(model_folder("bert"))
    found = classified(tmp_path, {"lora": LORA.model_dump()})
    assert list(found.arms) == ["lora", "head"]
    head, lora = found.arms["head"], found.arms["lora"]
    assert head.step is not None
    assert head.tuned.trainable_parameters < lora.tuned.trainable_parameters
    named = classified(tmp_path, {"lora": LORA.model_dump(), "probe": {"method": "head"}})
    assert list(named.arms) == ["lora", "probe"], "one is there already"
    with pytest.raises(SpecError, match="arm 'head' is lora"):
        classified(tmp_path, {"head": LORA.model_dump()})


# --- micro-batches that a plan finds


def study_on(folder: Path, **train: object) -> StudySpec:
    """Four examples of 48 tokens a step, on a small GPT-2 and no data."""
    small_config("gpt2").save_pretrained(folder / "model")
    content = {"name": "n", "model": str(folder / "model"), "data": {"train": NO_DATA, "max_length": 48}}
    return StudySpec.model_validate(
        {**content, "arms": {"lora": LORA.model_dump()}, "train": {"batch_size": 4, **train}}
    )


@pytest.mark.slow
def test_automatic_micro_batches_are_the_largest_that_fit(tmp_path: Path) -> None:
    def peak(found: StudyPlan) -> int:
        assert found.arms["lora"].step is not None
        return found.arms["lora"].step.total

    auto, here = study_on(tmp_path, micro_batch_tokens="auto"), PlanRequest(device="cpu")
    of_two = peak(plan_study(study_on(tmp_path, micro_batch_tokens=96), tmp_path, here))
    found = plan_study(auto, tmp_path, here.replace(memory_bytes=math.ceil(of_two / TIGHT) + 1))
    assert found.micro_batch_tokens == 96
    assert peak(found) == of_two
    assert settled(auto, found) == study_on(tmp_path, micro_batch_tokens=96)
    assert plan_study(auto, tmp_path, here).micro_batch_tokens == MOST_TOKENS["cpu"]


def test_micro_batches_that_a_study_names_stay(tmp_path: Path) -> None:
    found = plan_study(study_on(tmp_path, micro_batch_tokens=16), tmp_path, PlanRequest(device="cpu", memory_bytes=1))
    assert found.micro_batch_tokens == 16
    study = study_on(tmp_path, micro_batch_tokens="auto")
    assert settled(study, None).train.micro_batch_tokens == TrainSpec().micro_batch_tokens


# --- the batches


def batches_of(lengths: list[int], max_packed_length: int, **train: int) -> Workload:
    settings = TrainSpec(**train)
    return workload(make_examples(lengths), settings, 3, Batching(settings.micro_batch_tokens, 0, max_packed_length))


def candidates(lengths: list[int], max_packed_length: int, **train: int) -> list[tuple[list[int], bool]]:
    """The lengths of the examples of every candidate, and whether it follows others."""
    found = batches_of(lengths, max_packed_length, **train).candidates
    return [([lengths[row] for row in of.batch.rows], of.follows_others) for of in found]


@pytest.mark.parametrize("max_packed_length", [0, 20])
def test_of_whole_steps_the_one_with_the_most_tokens_is_followed(max_packed_length: int) -> None:
    ((lengths, follows_others),) = candidates([4, 4, 9, 9, 4, 4], max_packed_length, batch_size=6)
    assert (sorted(lengths), follows_others) == ([4, 4, 4, 4, 9, 9], False)


def test_a_micro_batch_that_follows_others_stands_for_the_first_one_if_that_is_no_larger() -> None:
    assert candidates([8] * 6, 0, batch_size=6, micro_batch_tokens=16) == [([8, 8], True)]
    assert candidates([8, 8, 4, 4], 0, batch_size=4, micro_batch_tokens=16) == [([8, 8], False), ([4, 4], True)]


def test_the_micro_batch_with_most_to_predict_or_most_attention_is_followed_beside_that_with_most_tokens() -> None:
    """One text of 12 tokens needs most attention, three of 5 are most tokens; a batch of one step each."""
    found = candidates([12, 5, 5, 5], 20, batch_size=4, micro_batch_tokens=15)
    assert found == [([5, 5, 5], True), ([12], False)]
    examples = [*make_examples([8]), *(replace(e, supervised=[False] + [True] * 6) for e in make_examples([7]))]
    work = workload(examples, TrainSpec(batch_size=1), 3, Batching(64, 0, 20))
    assert {of.batch.rows for of in work.candidates} == {(0,), (1,)}, "4 targets in 8 tokens, 6 in 7"


def test_a_run_can_do_its_fullest_steps() -> None:
    work = batches_of([8] * 6, 0, batch_size=6, micro_batch_tokens=16)
    assert [[batch.num_tokens for batch in step] for step in work.fullest] == [[16, 16]]
    assert [len(step) for step in work.first] == [3]
    work = batches_of([8, 8, 4, 4], 0, batch_size=4, micro_batch_tokens=16)
    assert [[batch.num_tokens for batch in step] for step in work.fullest] == [[16], [16, 8]]


def test_a_micro_batch_of_the_longest_is_packed_where_the_others_are() -> None:
    assert batches_of([8, 4], 0, batch_size=2).of_longest(3).input_ids_BT.shape == (3, 8)
    packed = batches_of([8, 4], 20, batch_size=2).of_longest(3)
    assert packed.input_ids_BT.shape == (1, 24)
    assert packed.packed_12BL is not None


def test_assumed_examples_are_trained_on_but_for_their_first_token() -> None:
    example, *_ = assumed_examples("sft", 2, 5)
    assert example.supervised == [False, True, True, True, True]
    assert assumed_examples("classify", 1, 5)[0].label == 0


# --- models


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "distilbert"])
def test_a_small_model_of_any_architecture_runs(family: str) -> None:
    of = setting(family)
    subject = build(of.small, FullMethod())
    give_storage(subject.model, with_small_values)
    ids = torch.ones(1, 4, dtype=torch.long)
    assert subject.model(input_ids=ids).logits.isfinite().all()


def test_tied_weights_stay_tied_when_they_are_given_storage() -> None:
    model = blank_base(small_config("gpt2"), "sft", 0, None).model
    give_storage(model, with_small_values)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight.device.type == "cpu"


# --- what fits


@pytest.mark.parametrize(("family", "is_tied"), [("llama", False), ("gemma", True)])
def test_what_several_devices_divide_is_counted_once(family: str, is_tied: bool) -> None:
    examples = make_examples((9, 7))
    found = plan(family, examples, 10**9, FullMethod()).shards
    assert found is not None
    model = blank_base(small_config(family), "sft", 3, None).model
    all_bytes = sum(parameter.nbytes for parameter in model.parameters())
    of, head = found.training, model.get_output_embeddings().weight.nbytes
    layer = sum(parameter.nbytes for parameter in model.get_decoder().layers[0].parameters())
    assert (of.stored, of.all, of.trained, of.head, of.head_gradient) == (all_bytes, all_bytes, all_bytes, head, head)
    assert (of.layer, of.layer_gradient) == (layer, layer)
    assert of.other == (model.get_decoder().norm.weight.nbytes if is_tied else head)
    assert found.scoring == of
    assert found.step_data > found.scoring_data > 0
    lora = plan(family, examples, 10**9).shards
    assert lora is not None
    assert 0 < lora.training.trained < of.trained
    assert lora.training.head_gradient == 0


def test_full_fine_tuning_in_bf16_gathers_linear_weights_in_bf16_and_a_cast_of_the_head() -> None:
    of = setting("llama", precision="bf16")
    examples = make_examples((9, 7))
    kernels = try_kernels(of, FullMethod())
    assert kernels is not None
    work = workload(examples, of.train, 0, kernels.batching(of.train))
    wide, narrow = (
        plan("llama", examples, 10**9, FullMethod()).shards,
        plan_arm(of, work, FullMethod(), kernels, 10**9).shards,
    )
    assert wide is not None
    assert narrow is not None
    norms = 2 * 32 * 4
    assert narrow.training.layer - norms == (wide.training.layer - norms) / 2
    assert narrow.training.head == 1.5 * wide.training.head
    assert narrow.training.stored == wide.training.stored


@pytest.mark.slow
def test_arms_that_several_devices_cannot_make_have_no_shards() -> None:
    assert plan("bert", make_examples((9, 7), classify=True), 10**9).shards is None
    assert plan("llama", make_examples((9, 7)), 10**9, LoraMethod(rank=2, variant="pissa")).shards is None


@pytest.mark.slow
def test_checkpointing_is_planned_only_for_a_step_that_does_not_fit() -> None:
    roomy, small = (plan("llama", make_examples([30] * 8), memory) for memory in (2**40, 2**16))
    assert roomy.checkpointed is None
    assert small.step is not None
    assert small.flops_per_token is not None
    assert small.checkpointed is not None
    assert small.checkpointed.step.activations < small.step.activations
    assert small.checkpointed.flops_per_token > small.flops_per_token


@pytest.mark.slow
def test_a_narrow_or_quantized_base_arrives_in_its_final_form() -> None:
    """Loading: 4 bytes a weight for a base that is whole in fp32 first; final size and one tensor for a narrow one."""
    examples = make_examples([30] * 8)

    def planned(spec: LoraMethod, **changes: object) -> ArmPlan:
        of = setting("llama", precision="bf16", **changes)
        kernels = try_kernels(of, spec)
        assert kernels is not None
        return plan_arm(of, workload(examples, of.train, 0, kernels.batching(of.train)), spec, kernels, 2**40)

    def loading(spec: LoraMethod, **changes: object) -> int:
        found = planned(spec, **changes).loading
        assert found is not None
        return found

    base = setting("llama")
    counts = [p.numel() for p in blank_base(base.config, "sft", 0, ()).model.parameters()]
    adapter = planned(LORA).tuned.trainable_parameters
    linear = planned(LORA).frozen_linear_weights
    head = small_config("llama").vocab_size * small_config("llama").hidden_size
    assert loading(LORA, device="cuda") == 4 * (sum(counts) + adapter) + 2 * 32 * 48
    final = 4 * (sum(counts) - linear - head + adapter) + 2 * (linear + head)
    assert loading(LORA, stored="bf16") == final + 4 * max(counts)
    dora = LORA.replace(variant="dora")
    assert loading(dora, stored="bf16", device="cuda") > loading(LORA, stored="bf16", device="cuda")
    packed = LORA.replace(base="nf4")
    assert loading(packed, stored="bf16") < loading(LORA, stored="bf16")
    whole, kept = planned(LORA).evaluation, planned(LORA, stored="bf16").evaluation
    assert whole is not None
    assert kept is not None
    assert 0 < whole.weights - kept.weights <= 2 * linear
