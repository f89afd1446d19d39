"""Weight updates as thin products: their singular values without forming the matrix, and measures derived from them.

Shapes: M outputs, N inputs, R rank, K singular values kept (at most min(M, N, R)). Everything is float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Thin:
    """A matrix (M, N) as U diag(s) V^T: orthonormal U (M, K) and V (N, K), s (K,) descending and not negative."""

    U_MK: Floats
    s_K: Floats
    V_NK: Floats

    def truncated(self, rank: int) -> "Thin":
        """Nearest matrix of at most this rank (Eckart & Young 1936)."""
        return Thin(self.U_MK[:, :rank], self.s_K[:rank], self.V_NK[:, :rank])

    def factors(self, scale: float) -> tuple[Floats, Floats]:
        """B (M, K) and A (K, N) with scale * B A the matrix, the singular values shared evenly."""
        root_K = np.sqrt(self.s_K / scale)
        return self.U_MK * root_K, root_K[:, None] * self.V_NK.T

    def dense(self) -> Floats:
        """The matrix (M, N) itself."""
        return (self.U_MK * self.s_K) @ self.V_NK.T


def thin_svd(B_MR: npt.ArrayLike, A_RN: npt.ArrayLike, scale: float) -> Thin:
    """Singular value decomposition of scale * B A: QR of both factors, then the SVD of an R x R core.

    `scale` is above 0. Costs O((M + N) R^2) instead of the O(M N min(M, N)) of the full matrix.
    """
    Q_MK, left_KR = np.linalg.qr(np.asarray(B_MR, dtype=np.float64))
    P_NK, right_KR = np.linalg.qr(np.asarray(A_RN, dtype=np.float64).T)
    U, s_K, Vt = np.linalg.svd(scale * left_KR @ right_KR.T, full_matrices=False)
    return Thin(Q_MK @ U, s_K, P_NK @ Vt.T)


def inner_product(one: Thin, other: Thin) -> float:
    """Sum over entries of the product of two matrices of the same shape (Frobenius)."""
    left = one.U_MK.T @ other.U_MK
    right = one.V_NK.T @ other.V_NK
    return float(np.einsum("i,ij,ij,j->", one.s_K, left, right, other.s_K))


def cosine(one: Thin, other: Thin) -> float | None:
    """Cosine of two updates of one weight, -1 to 1; None if one of them is 0."""
    norms = float(np.linalg.norm(one.s_K) * np.linalg.norm(other.s_K))
    return inner_product(one, other) / norms if norms > 0 else None


# --- measures of singular values


def energy(s_K: npt.ArrayLike, rank: int) -> float | None:
    """Share of the squared norm that the best approximation of this rank keeps; None if the norm is 0."""
    squares = np.asarray(s_K, dtype=np.float64) ** 2
    total = float(squares.sum())
    return float(squares[:rank].sum()) / total if total > 0 else None


def energy_rank(s_K: npt.ArrayLike, share: float) -> int:
    """Smallest rank that keeps at least `share` of the squared norm; 0 if the norm is 0."""
    squares = np.asarray(s_K, dtype=np.float64) ** 2
    if not squares.any():
        return 0
    kept = np.cumsum(squares) / squares.sum()
    return int(np.argmax(kept >= share - 1e-12)) + 1


def effective_rank(s_K: npt.ArrayLike) -> float | None:
    """exp of the entropy of the singular values' shares (Roy & Vetterli 2007), 1 to K; None if all are 0."""
    s = np.asarray(s_K, dtype=np.float64)
    if not s.any():
        return None
    shares = s[s > 0] / s.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def stable_rank(s_K: npt.ArrayLike) -> float | None:
    """Squared norm divided by the largest squared singular value, 1 to K; None if all are 0."""
    s = np.asarray(s_K, dtype=np.float64)
    return float((s**2).sum() / s[0] ** 2) if s.any() else None


# --- measures of directions


def principal_cosines(X_MK: Floats, Y_ML: Floats) -> Floats:
    """Cosines of the principal angles between two column spaces, descending (Björck & Golub 1973); both orthonormal."""
    found: Floats = np.clip(np.linalg.svd(X_MK.T @ Y_ML, compute_uv=False), 0.0, 1.0)
    return found


def overlap(X_MK: Floats, Y_ML: Floats) -> float:
    """Share of the smaller space inside the larger, 0 to 1: ||X^T Y||^2 / min(K, L) (Hu et al. 2021, 7.2)."""
    cosines = principal_cosines(X_MK, Y_ML)
    return float(cosines @ cosines) / len(cosines)


def intruders(tuned_MK: Floats, base_MM: Floats, threshold: float = 0.5) -> int:
    """Number of leading left singular vectors of the tuned weight unlike all of the base's: |cosine| below 0.5.

    Shuttleworth et al. 2024 (arXiv 2410.21228), "LoRA vs full fine-tuning: an illusion of equivalence".
    """
    return int((np.abs(base_MM.T @ tuned_MK).max(axis=0) < threshold).sum())


# --- ranks per module


def spread_ranks(spectra: Mapping[str, Floats], costs: Mapping[str, int], budget: int) -> dict[str, int]:
    """Ranks per module that keep the most energy for at most `budget` parameters, at least 1 per module.

    `costs`: parameters of one rank of a module, M + N. The direction with the most energy per parameter goes first.
    Since a module's singular values descend, the first direction that no longer fits ends that module.
    """
    ranks = dict.fromkeys(spectra, 1)
    left = budget - sum(costs[name] for name in spectra)
    candidates = sorted(
        (-(float(value) ** 2) / costs[name], name, place)
        for name, s_K in spectra.items()
        for place, value in enumerate(s_K)
        if place > 0 and value > 0
    )
    full: set[str] = set()
    for _, name, place in candidates:
        if name in full:
            continue
        if costs[name] > left:
            full.add(name)
            continue
        ranks[name] = place + 1
        left -= costs[name]
    return ranks
