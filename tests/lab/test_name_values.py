"""Laws of `rank_pattern` and `alpha_pattern` of a peft arm: a key that would change nothing is an error."""

from collections.abc import Callable
from typing import Any

import pytest
from peft.tuners.lora import LoraLayer

from tunewise.errors import ModelError, SpecError
from tunewise.lab.methods import build_method
from tunewise.lab.models.load import Base
from tunewise.spec import PeftMethod

Load = Callable[..., Base]
Q = "model.layers.0.self_attn.q_proj"


def ranks(base: Base, kind: str = "LORA", **options: Any) -> dict[str, int]:
    """Rank of every adapted layer, by the end of its name after the block."""
    chosen = {"r": 2, "target_modules": ["q_proj", "up_proj"], **options}
    model = build_method(PeftMethod(type=kind, options=chosen), "sft", 10).prepare(base)
    return {
        name.removeprefix("base_model.model."): layer.r["default"]
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


@pytest.mark.parametrize("option", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    ("key", "near"),
    [("q_porj", "Did you mean 'q_proj'"), ("proj", "its end"), ("down_proj", "up_proj"), ("q_proj.weight", "q_proj")],
)
def test_a_key_that_matches_nothing_is_named_with_what_would_match(
    option: str, key: str, near: str, language_model: Load
) -> None:
    with pytest.raises(SpecError, match=f"option {option}: the key '{key}' matches no adapted module") as caught:
        ranks(language_model("llama"), **{option: {"q_proj": 4, key: 4}})
    for said in (near, "q_proj, up_proj", Q, "Correct the key or remove it"):
        assert said in str(caught.value)


def test_a_key_whose_modules_are_all_taken_by_earlier_keys_is_an_error(language_model: Load) -> None:
    with pytest.raises(SpecError, match="'.*up_proj' matches no module that earlier keys leave"):
        ranks(language_model("llama"), rank_pattern={"up_proj": 4, r".*\.up_proj": 8})


def test_keys_that_match_give_the_ranks_that_peft_reads_from_them(language_model: Load) -> None:
    found = ranks(language_model("llama"), rank_pattern={Q: 5, "q_proj": 3}, alpha_pattern={r"layers\.[01]\..*": 4})
    assert {found.pop(Q), found.pop(Q.replace("0", "1"))} == {5, 3}
    assert set(found.values()) == {2}


@pytest.mark.parametrize("kind", ["LOHA", "LOKR"])
def test_other_kinds_with_such_an_option_are_held_to_the_same(kind: str, language_model: Load) -> None:
    with pytest.raises(SpecError, match="rank_pattern: the key 'nothing'"):
        ranks(language_model("llama"), kind, rank_pattern={"nothing": 4})


@pytest.mark.parametrize("value", ["q_proj", 4, ["q_proj"]])
def test_a_value_that_is_no_mapping_is_refused(value: Any, language_model: Load) -> None:
    with pytest.raises(SpecError, match="rank_pattern must map names of modules to numbers, but got"):
        ranks(language_model("llama"), rank_pattern=value)


def test_a_pattern_that_could_take_hours_is_refused(language_model: Load) -> None:
    with pytest.raises(ModelError, match="peft option rank_pattern: .* could take hours"):
        ranks(language_model("llama"), rank_pattern={r"((\w+\.?)+)+!": 4})
