"""Laws of dropout from shared random words: torch's in distribution, and its own wherever something else is asked."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from tunewise.lab.train.dropout import TORCH_DROPOUT, dropout, quick_dropout

SIDE = 301  # its square is not a multiple of four


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_are_dropped_at_random_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    kept = dropout(torch.ones(SIDE, SIDE), p)
    values = kept.unique().tolist()
    assert values == [0.0, pytest.approx(1 / (1 - p), rel=1e-4)]
    spread = (p / (1 - p) / SIDE**2) ** 0.5  # of the mean, one standard deviation
    assert float(kept.mean()) == pytest.approx(1, abs=5 * spread)
    # the four that share a random word are as independent as any others, along rows and down columns
    for one, other in (*pairwise(kept.flatten()[: SIDE**2 - 1].view(-1, 4).unbind(1)), (kept[1:], kept[:-1])):
        correlation = float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])
        assert abs(correlation) < 5 / one.numel() ** 0.5


def test_the_gradient_passes_where_the_value_does() -> None:
    torch.manual_seed(0)
    x = torch.randn(SIDE, dtype=torch.bfloat16, requires_grad=True)
    kept = dropout(x, 0.3)
    kept.sum().backward()
    assert kept.dtype == torch.bfloat16
    assert x.grad is not None
    assert torch.equal(x.grad != 0, kept != 0)
    torch.testing.assert_close(kept, x.detach() * x.grad)


def test_what_is_not_dropped_at_random_is_left_to_torch() -> None:
    x = torch.ones(5)
    assert torch.equal(dropout(x, 0.5, training=False), x)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros(5))
    with pytest.raises(ValueError, match="between 0 and 1"):
        dropout(x, 1.5)
    y = torch.ones(50)
    assert dropout(y, 0.5, inplace=True) is y


def test_modules_and_functions_draw_so_inside_alone() -> None:
    layer = torch.nn.Dropout(0.5)
    with quick_dropout():
        for drop in (layer, lambda x: F.dropout(x, 0.5)):
            torch.manual_seed(3)
            found = drop(torch.ones(SIDE))
            torch.manual_seed(3)
            assert torch.equal(found, dropout(torch.ones(SIDE), 0.5))
    assert F.dropout is TORCH_DROPOUT
