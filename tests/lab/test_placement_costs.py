"""What one rank costs in each placement, against the adapters that peft makes there."""

from collections.abc import Callable
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from tunewise.errors import SpecError
from tunewise.lab.methods.placements import expand_placements, placement_costs
from tunewise.lab.methods.targets import resolve_targets
from tunewise.lab.models.load import Base
from tunewise.spec import LoraMethod, StudySpec

Load = Callable[..., Base]
ARMS: dict[str, Any] = {"full": {"method": "full"}, "lora": {"method": "lora", "rank": 12, "targets": "auto"}}


def study_of(arms: dict[str, Any]) -> StudySpec:
    return StudySpec.model_validate({"name": "s", "data": {"train": "t"}, "arms": arms})


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt-neox", "opt"])
def test_the_cost_of_a_rank_is_what_pefts_adapter_has(name: str, language_model: Load) -> None:
    costs = placement_costs(language_model(name))
    assert list(costs) == ["qkv", "attention", "mlp", "all-linear"]
    for placement, cost in costs.items():
        base = language_model(name)
        names = list(resolve_targets(base, placement).names)
        adapted = get_peft_model(base.model, LoraConfig(r=3, target_modules=names))
        assert 3 * cost == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_arms_that_a_study_becomes_train_as_many_parameters(name: str, language_model: Load) -> None:
    study = expand_placements(study_of(ARMS), language_model(name))
    costs = placement_costs(language_model(name))
    parameters = [costs[str(m.targets)] * int(m.rank) for m in study.arms.values() if isinstance(m, LoraMethod)]
    assert len(parameters) == 4
    assert max(parameters) <= 1.05 * min(parameters)


def test_placements_of_the_same_modules_are_one(language_model: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewise.lab.methods import targets

    monkeypatch.setattr(targets, "QKV_NAMES", {*targets.QKV_NAMES, "o_proj"})
    assert list(placement_costs(language_model("llama"))) == ["qkv", "mlp", "all-linear"]


def test_a_model_with_one_placement_is_refused(language_model: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewise.lab.methods import targets

    monkeypatch.setattr(targets, "_matches", lambda target, names: names if target == "all-linear" else [])
    with pytest.raises(SpecError, match="this model has only all-linear\\. Set the targets"):
        expand_placements(study_of(ARMS), language_model("llama"))


def test_a_study_that_does_not_ask_is_as_it_was(language_model: Load) -> None:
    study = study_of({"full": {"method": "full"}})
    assert expand_placements(study, language_model("llama")) is study
