"""Laws of the loss that keeps few logits in fp32: it is torch's own, in value and in gradient."""

import pytest
import torch
import torch.nn.functional as F

import tunewise.lab.train.cross_entropy
from tunewise.lab.train.cross_entropy import target_nll

VOCABULARY = 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [0, 1, 6, 7])
def test_values_and_gradients_are_those_of_torch(
    dtype: torch.dtype, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunewise.lab.train.cross_entropy, "CACHED_LOGITS", 3 * VOCABULARY + 1)  # three rows at a time
    torch.manual_seed(0)
    plain, ours = (
        (8 * torch.randn(num_rows, VOCABULARY, generator=torch.Generator().manual_seed(1))).to(dtype).requires_grad_()
        for _ in range(2)
    )
    targets, weights = torch.randint(VOCABULARY, (num_rows,)), torch.rand(num_rows)
    expected, found = F.cross_entropy(plain.float(), targets, reduction="none"), target_nll(ours, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert plain.grad is not None
    assert ours.grad is not None
    assert ours.grad.dtype == dtype
    # in bf16 both are rounded once, so they may differ by one step where the fp32 value is between two
    torch.testing.assert_close(ours.grad, plain.grad, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_logits_far_apart_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    nll = target_nll(logits, torch.tensor([1]))
    nll.sum().backward()
    assert float(nll) == 2e4
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1.0, -1.0, 0.0]]
