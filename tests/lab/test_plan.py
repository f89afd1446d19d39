"""Plans: the table of well-known models, the batches a plan is made for, what fits, what is saved."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from lab_fixtures import ENCODERS, make_examples, small_config
from tunewise.errors import ModelError
from tunewise.lab.data.batching import Batching, Example
from tunewise.lab.models import is_encoder
from tunewise.lab.plan.arm import largest, plan_arm
from tunewise.lab.plan.blank import blank_base, give_storage, with_small_values
from tunewise.lab.plan.configurations import configuration, known_configurations
from tunewise.lab.plan.study import plan_study
from tunewise.lab.plan.subject import Setting, build, try_kernels
from tunewise.lab.plan.workload import Workload, assumed_examples, workload
from tunewise.plans import ArmPlan, PlanRequest
from tunewise.spec import NO_DATA, FullMethod, LoraMethod, Method, PeftMethod, StudySpec, TrainSpec

LORA = LoraMethod(rank=2)
KNOWN = known_configurations()


def setting(family: str, **changes: object) -> Setting:
    task = "classify" if family in ENCODERS else "sft"
    return replace(Setting(small_config(family), task, 3, None, TrainSpec(), 10, "cpu", "fp32", None), **changes)


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


def test_gpt2_with_lora_on_qkv_trains_what_peft_counts(tmp_path: Path) -> None:
    content = {"name": "n", "model": "gpt2", "data": {"train": NO_DATA, "max_length": 8}, "train": {"batch_size": 1}}
    study = StudySpec.model_validate({**content, "arms": {"lora": {"method": "lora", "rank": 8, "targets": "qkv"}}})
    tuned = plan_study(study, tmp_path, PlanRequest(device="cpu", precision="fp32")).arms["lora"].tuned
    assert tuned.trainable_parameters == 294_912
    assert f"{100 * tuned.trainable_parameters / tuned.total_parameters:.4f}" == "0.2364"


# --- what fits


def test_the_largest_micro_batch_fits_and_one_example_more_does_not() -> None:
    for memory_bytes, found in ((9, 0), (10, 1), (79, 7), (80, 8), (10**6, 8)):
        assert largest(lambda n: 10 * n, 8, memory_bytes) == found


@pytest.mark.parametrize(("family", "method"), [("gpt2", FullMethod()), ("bert", PeftMethod(type="IA3"))])
def test_the_largest_micro_batch_of_a_plan_is_that_of_steps_that_were_followed(family: str, method: Method) -> None:
    is_classified = family in ENCODERS

    def step_bytes(num_examples: int) -> int:
        examples = make_examples([8] * num_examples, classify=is_classified)
        step = plan(family, examples, 10**9, method, batch_size=num_examples).step
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

    monkeypatch.setattr("tunewise.lab.plan.dry.example_losses", look)
    found = plan("gpt2", make_examples([8]), 10**9)
    assert (found.step, found.evaluation, found.flops_per_token, found.largest_micro_batch) == (None,) * 4
    assert found.note is not None
    assert "cannot be followed" in found.note
    assert found.tuned.trainable_parameters > 0


# --- the batches


def batches_of(lengths: list[int], max_packed_length: int, **train: int) -> Workload:
    settings = TrainSpec(**train)
    return workload(make_examples(lengths), settings, 3, Batching(settings.micro_batch_tokens, 0, max_packed_length))


@pytest.mark.parametrize("max_packed_length", [0, 20])
def test_the_busiest_step_is_the_one_with_the_most_tokens(max_packed_length: int) -> None:
    found = batches_of([4, 4, 9, 5, 4, 4, 4, 4], max_packed_length, batch_size=2, micro_batch_tokens=64)
    assert len(found.longest.input_ids) == 9
    assert 2 in found.busiest[0].rows


def test_a_step_of_many_micro_batches_is_followed_over_two_of_them() -> None:
    found = batches_of([8] * 6, 0, batch_size=6, micro_batch_tokens=16)
    assert [batch.input_ids_BT.shape for batch in found.busiest] == [(2, 8), (2, 8)]
    assert [len(step) for step in found.first] == [3]


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
