"""What full fine-tuning changed, against a change whose rank is known, and the adapters cut out of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from tunewise.errors import SpecError
from tunewise.lab.evaluate.extract import Change, extractions, find_change
from tunewise.lab.methods import build_method
from tunewise.lab.methods.targets import linear_modules, resolve_targets
from tunewise.lab.models.load import Base
from tunewise.spec import FullMethod

Load = Callable[..., Base]
RANK = 3
ASKED = {"all-linear": (1, RANK), "qkv": (2,)}


@pytest.fixture(params=["gpt2", "llama"])
def bases(request: pytest.FixtureRequest, language_model: Load) -> tuple[Base, Base]:
    """A base, and a copy whose linear weights were changed by matrices of rank 3, and all else by something."""
    base, tuned = language_model(request.param), language_model(request.param)
    generator = torch.Generator().manual_seed(0)
    linear = {f"{name}.weight" for name in linear_modules(tuned)}
    with torch.no_grad():
        for name, parameter in tuned.model.named_parameters():
            if name in linear:
                left = torch.randn(parameter.shape[0], RANK, generator=generator)
                parameter += 0.05 * left @ torch.randn(RANK, parameter.shape[1], generator=generator)
            else:
                parameter += 0.01
    return base, tuned


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def turned(base: Base, name: str, weight: torch.Tensor) -> Any:
    """(outputs, inputs), in float64."""
    module = base.model.get_submodule(name)
    return (weight.T if isinstance(module, Conv1D) else weight).double().numpy()


def test_the_spectrum_is_that_of_the_dense_difference_and_ends_at_its_rank(bases: tuple[Base, Base]) -> None:
    base, tuned = bases
    change = find_change(tuned.model, base, ASKED)
    assert [row["module"] for row in change.modules] == list(linear_modules(base))
    before, after = weights(base.model), weights(tuned.model)
    for row in change.modules:
        name = f"{row['module']}.weight"
        of_base, of_tuned = (turned(base, row["module"], found[name]) for found in (before, after))
        expected = np.linalg.svd(of_tuned - of_base, compute_uv=False)
        assert (row["num_outputs"], row["num_inputs"]) == of_base.shape
        np.testing.assert_allclose(row["singular_values"], expected, rtol=1e-9, atol=1e-12)
        assert row["singular_values"][RANK] < 1e-5 * row["singular_values"][0] < row["singular_values"][RANK - 1]
        assert row["base_norm"] == pytest.approx(np.linalg.norm(of_base))
        left, _, _ = np.linalg.svd(of_base, full_matrices=False)
        cosines = np.abs(left.T @ np.linalg.svd(of_tuned, full_matrices=False)[0][:, :10]).max(axis=0)
        assert row["intruders"] == int((cosines < 0.5).sum())


def test_one_direction_that_the_base_does_not_have_is_one_intruder(language_model: Load) -> None:
    base, tuned = language_model("llama"), language_model("llama")
    name = "model.layers.0.self_attn.q_proj"
    weight = tuned.model.get_parameter(f"{name}.weight")
    U, _, Vt = torch.linalg.svd(weight.detach())
    with torch.no_grad():  # along the mean of all of the base's directions: like none of them
        weight += 10 * torch.outer(U.mean(dim=1) / U.mean(dim=1).norm(), Vt[0])
    counts = {row["module"]: row["intruders"] for row in find_change(tuned.model, base, ASKED).modules}
    assert counts.pop(name) == 1
    assert set(counts.values()) == {0}


def cut(bases: tuple[Base, Base]) -> tuple[Change, dict[tuple[str, int | None], dict[str, torch.Tensor]]]:
    base, tuned = bases
    change = find_change(tuned.model, base, ASKED)
    return change, {
        (adapter.targets, adapter.rank): weights(base.model) for adapter in extractions(tuned.model, base, change)
    }


def test_an_extraction_adds_to_its_targets_alone_and_the_whole_change_is_full_fine_tunings(
    bases: tuple[Base, Base],
) -> None:
    base, tuned = bases
    before, after = weights(base.model), weights(tuned.model)
    _, found = cut(bases)
    assert list(found) == [("all-linear", 1), ("all-linear", RANK), ("all-linear", None), ("qkv", 2), ("qkv", None)]
    for (targets, rank), now in found.items():
        adapted = {f"{name}.weight" for name in resolve_targets(base, targets).names}
        for name, weight in now.items():
            if name not in adapted:
                assert torch.equal(weight, before[name])
            elif rank is None:
                assert torch.equal(weight, after[name])
            elif rank == RANK:
                torch.testing.assert_close(weight, after[name], rtol=0, atol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in base.model.named_parameters()), "restored"


def test_an_extraction_is_the_nearest_of_its_rank(bases: tuple[Base, Base]) -> None:
    base, tuned = bases
    before, after = weights(base.model), weights(tuned.model)
    change, found = cut(bases)
    for targets, rank in (("all-linear", 1), ("qkv", 2)):
        for name in change.names[targets]:
            key = f"{name}.weight"
            U, s, Vt = np.linalg.svd((after[key] - before[key]).double().numpy(), full_matrices=False)
            nearest = (U[:, :rank] * s[:rank]) @ Vt[:rank]
            np.testing.assert_allclose(found[targets, rank][key] - before[key], nearest, atol=1e-6 * s[0])


def test_a_head_is_the_one_that_was_trained(classifier: Load) -> None:
    base, tuned = classifier("bert", seed=0), classifier("bert", seed=1)
    heads = [f"{module}.weight" for module in base.head_modules if hasattr(base.model.get_submodule(module), "weight")]
    assert heads
    change = find_change(tuned.model, base, {"all-linear": (1,)})
    assert not {row["module"] for row in change.modules} & set(base.head_modules)
    for _ in extractions(tuned.model, base, change):
        for name in heads:
            assert torch.equal(base.model.get_parameter(name), tuned.model.get_parameter(name))


def test_targets_that_match_nothing_are_refused_before_anything_is_trained(language_model: Load) -> None:
    with pytest.raises(SpecError, match="targets 'qvk' matches no linear module"):
        build_method(FullMethod(extract={"qvk": (4,)}), "sft", 1).prepare(language_model("llama"))
