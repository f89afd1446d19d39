"""Low-rank algebra against the dense matrix in float64, and against cases whose answer is known."""

import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.adapter.lowrank import (
    Floats,
    Thin,
    cosine,
    effective_rank,
    energy,
    energy_rank,
    inner_product,
    intruders,
    overlap,
    principal_cosines,
    spread_ranks,
    stable_rank,
    thin_svd,
)

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 15), st.integers(0, 99))


def drawn(shape: tuple[int, int, int, int]) -> tuple[Floats, Floats]:
    outputs, inputs, rank, seed = shape
    rng = np.random.default_rng(seed)
    return rng.normal(size=(outputs, rank)), rng.normal(size=(rank, inputs))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0.01, 50))
def test_the_core_has_the_dense_matrix_singular_values(shape: tuple[int, int, int, int], scale: float) -> None:
    B, A = drawn(shape)
    thin = thin_svd(B, A, scale)
    dense = np.linalg.svd(scale * B @ A, compute_uv=False)
    count = len(thin.s_K)
    assert count == min(shape[:3])
    np.testing.assert_allclose(thin.s_K, dense[:count], rtol=1e-10, atol=1e-12 * dense[0])
    np.testing.assert_allclose(thin.dense(), scale * B @ A, rtol=1e-9, atol=1e-11 * dense[0])
    for side in (thin.U_MK, thin.V_NK):
        np.testing.assert_allclose(side.T @ side, np.eye(count), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(1, 8))
def test_a_truncation_loses_the_tail_of_the_singular_values_and_nothing_can_lose_less(
    shape: tuple[int, int, int, int], rank: int
) -> None:
    B, A = drawn(shape)
    thin = thin_svd(B, A, 2.0)
    lost = np.linalg.norm(2 * B @ A - thin.truncated(rank).dense())
    assert lost == pytest.approx(np.linalg.norm(thin.s_K[rank:]), abs=1e-9 * thin.s_K[0])
    kept = energy(thin.s_K, rank)
    assert kept == pytest.approx(1 - (lost / np.linalg.norm(thin.s_K)) ** 2, abs=1e-9)


def test_a_truncation_to_the_known_rank_is_exact() -> None:
    rng = np.random.default_rng(0)
    B, A = rng.normal(size=(40, 3)), rng.normal(size=(3, 30))
    mix = rng.normal(size=(3, 16))  # the same product of rank 3, written with 16
    thin = thin_svd(B @ mix, np.linalg.pinv(mix) @ A, 1.0)
    np.testing.assert_allclose(thin.truncated(3).dense(), B @ A, atol=1e-12)
    assert energy_rank(thin.s_K, 1 - 1e-12) == 3


@given(st.floats(0.1, 30))
def test_factors_multiply_back_at_any_scale(scale: float) -> None:
    thin = thin_svd(*drawn((7, 5, 3, 1)), 1.5)
    B, A = thin.factors(scale)
    np.testing.assert_allclose(scale * B @ A, thin.dense(), atol=1e-12)
    assert np.linalg.norm(B) == pytest.approx(np.linalg.norm(A)), "shared evenly"


def test_the_cosine_of_two_changes_is_that_of_the_dense_matrices() -> None:
    one, other = (thin_svd(*drawn((9, 6, rank, rank)), 0.7) for rank in (2, 4))
    dense = (one.dense() * other.dense()).sum()
    assert inner_product(one, other) == pytest.approx(dense)
    assert cosine(one, other) == pytest.approx(dense / np.linalg.norm(one.dense()) / np.linalg.norm(other.dense()))
    assert cosine(one, one) == pytest.approx(1)
    zero = thin_svd(np.zeros((9, 2)), np.ones((2, 6)), 1.0)
    assert cosine(one, zero) is None


def test_principal_angles_are_scipys() -> None:
    X, Y = (np.linalg.qr(np.random.default_rng(seed).normal(size=(9, k)))[0] for seed, k in ((1, 3), (2, 4)))
    angles = scipy.linalg.subspace_angles(X, Y)
    np.testing.assert_allclose(principal_cosines(X, Y), np.sort(np.cos(angles))[::-1], atol=1e-12)
    assert overlap(X, Y) == pytest.approx((np.cos(angles) ** 2).sum() / 3)
    assert overlap(X, np.linalg.qr(np.hstack([X, Y]))[0]) == pytest.approx(1), "a part of it"


@pytest.mark.parametrize(("k", "value"), [(1, 1.0), (4, 4.0), (7, 7.0)])
def test_equal_singular_values_count_one_each(k: int, value: float) -> None:
    s = [2.5] * k
    assert effective_rank(s) == pytest.approx(value)
    assert stable_rank(s) == pytest.approx(value)
    assert energy_rank(s, 1.0) == k


def test_effective_rank_of_unequal_ones() -> None:
    assert effective_rank([3.0, 1.0]) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert stable_rank([3.0, 1.0]) == pytest.approx(10 / 9)
    assert (energy_rank([3.0, 1.0], 0.9), energy_rank([3.0, 1.0], 0.91)) == (1, 2)


def test_nothing_is_said_of_a_change_of_nothing() -> None:
    zeros = np.zeros(3)
    assert (effective_rank(zeros), stable_rank(zeros), energy(zeros, 2), energy_rank(zeros, 0.9)) == (None,) * 3 + (0,)


def test_intruders_are_counted() -> None:
    base = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    between = (base[:, 0] + base[:, 1]) / math.sqrt(2)  # cosine 0.71 with two of them
    spread = base.sum(axis=1) / math.sqrt(6)  # 0.41 with each
    assert intruders(np.stack([base[:, 3], between, spread], axis=1), base) == 1


def test_ranks_are_spread_by_energy_per_parameter() -> None:
    spectra = {"a": np.array([9.0, 8.0, 0.1]), "b": np.array([3.0, 2.0]), "dead": np.zeros(2)}
    costs = {"a": 10, "b": 5, "dead": 5}
    assert spread_ranks(spectra, costs, budget=20) == {"a": 1, "b": 1, "dead": 1}
    assert spread_ranks(spectra, costs, budget=30) == {"a": 2, "b": 1, "dead": 1}
    assert spread_ranks(spectra, costs, budget=25) == {"a": 1, "b": 2, "dead": 1}, "what does not fit is passed over"
    assert spread_ranks(spectra, costs, budget=1000) == {"a": 3, "b": 2, "dead": 1}


def test_no_even_spread_keeps_more_energy() -> None:
    rng = np.random.default_rng(3)
    spectra = {name: np.sort(rng.exponential(size=8))[::-1] * size for name, size in (("a", 1), ("b", 3), ("c", 0.3))}
    costs = dict.fromkeys(spectra, 20)
    ranks = spread_ranks(spectra, costs, budget=3 * 4 * 20)
    assert sum(ranks.values()) == 12

    def kept(chosen: dict[str, int]) -> float:
        return sum(float((spectra[name][:rank] ** 2).sum()) for name, rank in chosen.items())

    others = ({"a": a, "b": b, "c": 12 - a - b} for a in range(1, 9) for b in range(1, 9) if 1 <= 12 - a - b <= 8)
    assert all(kept(ranks) >= kept(other) - 1e-12 for other in others)


def test_a_thin_matrix_is_cut_at_its_own_end() -> None:
    thin = Thin(np.eye(4, 2), np.array([2.0, 1.0]), np.eye(3, 2))
    assert thin.truncated(5).s_K.tolist() == [2.0, 1.0]
