"""The exercises of the learner's track that need torch: each is computed here, on small tensors or the bundled base."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tunewise.assets import ASSETS
from tunewise.lab.data.sources.tickets import tickets
from tunewise.lab.models.library_errors import quiet_transformers

BASE = ASSETS / "tiny"


def adapted(weight_MN: torch.Tensor, rank: int, alpha: int) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """The layer with peft's LoRA, and the parameters A (R, N) and B (M, R)."""
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["layer"])
    layer = torch.nn.Linear(weight_MN.shape[1], weight_MN.shape[0], bias=False)
    layer.weight.data = weight_MN
    model = get_peft_model(torch.nn.Sequential(OrderedDict(layer=layer)), settings)
    named = dict(model.named_parameters())
    A, B = (next(p for name, p in named.items() if f"lora_{side}" in name) for side in "AB")
    return model, A, B


def shapes() -> tuple[int, ...]:
    """Rows and columns of A, then of B, at rank 4 between 64 inputs and 48 outputs."""
    _, A, B = adapted(torch.zeros(48, 64), 4, 32)
    return (*A.shape, *B.shape)


def parameters_of_gpt2() -> int:
    """Trainable parameters of rank 8 on `c_attn` of GPT-2 small."""
    with torch.device("meta"):
        settings = LoraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True)
        model = get_peft_model(GPT2LMHeadModel(GPT2Config()), settings)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def first_gradients() -> tuple[str, int]:
    """Which of A and B gets a gradient of zero if B is zero; how many get one if both are zero."""
    torch.manual_seed(0)
    model, A, B = adapted(torch.randn(48, 64), 4, 32)
    x_N = torch.randn(64)
    model(x_N).square().sum().backward()
    still = "AB"[[bool(p.grad is not None and p.grad.any()) for p in (A, B)].index(False)]
    model.zero_grad()
    A.data.zero_()
    model(x_N).square().sum().backward()
    return still, sum(bool(p.grad is not None and p.grad.any()) for p in (A, B))


def tokens_of_a_ticket(number: int) -> tuple[int, int]:
    """Tokens of the prompt and supervised tokens of one row, with the end of text."""
    row = list(tickets())[number]
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    answer = tokenizer(row["completion"]).input_ids
    return len(tokenizer(row["prompt"] + "\n").input_ids), len(answer) + 1


def one_step() -> tuple[float, float]:
    """Sum of the outputs of a small layer with LoRA, and its loss after one step on A and B."""
    model, A, B = adapted(_grid(3, 4, lambda i, j: (i + j) / 10), 2, 8)
    A.data, B.data = _grid(2, 4, lambda i, j: (i - j) / 10), _grid(3, 2, lambda i, j: (i + 1) * (j + 1) / 10)
    x_N = torch.tensor([1.0, 2.0, 3.0, 4.0])
    optimizer = torch.optim.SGD([A, B], lr=1e-3)
    before = model(x_N)
    before.square().sum().backward()
    optimizer.step()
    return before.sum().item(), model(x_N).square().sum().item()


def _grid(rows: int, columns: int, entry: Callable[[int, int], float]) -> torch.Tensor:
    return torch.tensor([[entry(i, j) for j in range(columns)] for i in range(rows)])


def merged_in_bf16(*updates: float) -> tuple[float, ...]:
    """What bf16 stores of 1 + update."""
    return tuple(float((torch.tensor(1.0) + update).bfloat16()) for update in updates)


def memory_of_full() -> tuple[float, float]:
    """Bytes of a parameter on disk, and of its weight, gradient and moments in training."""
    model = torch.nn.Linear(100, 100, bias=False)
    weights, gradients, moments = _bytes_after_a_step(model, model(torch.ones(100)).sum())
    count = model.weight.numel()
    return weights / count, (weights + gradients + moments) / count


def memory_of_lora() -> tuple[float, ...]:
    """Bytes of weights, gradients and moments of the bundled base with rank 16 on all linear layers."""
    with quiet_transformers():
        base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        settings = LoraConfig(r=16, target_modules="all-linear", fan_in_fan_out=True)
        model = get_peft_model(base, settings)
        tokens_BT = torch.arange(8)[None]
        return _bytes_after_a_step(model, model(tokens_BT, labels=tokens_BT).loss)


def _bytes_after_a_step(model: torch.nn.Module, loss: torch.Tensor) -> tuple[int, int, int]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    loss.backward()
    optimizer.step()
    weights = sum(p.nbytes for p in model.parameters())
    gradients = sum(p.grad.nbytes for p in trained if p.grad is not None)
    moments = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim())
    return weights, gradients, moments
