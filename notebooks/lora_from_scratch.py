# ---
# jupyter:
#   jupytext: {formats: 'ipynb,py:percent'}
# ---

# %% [markdown]
# # LoRA from scratch
#
# LoRA in 30 lines, put into the bundled language model, and equal to peft's in logits, gradients and merged weights.
# Then we train it for 100 steps, and break it in four ways to see which check catches each.
#
# The notebook needs torch, transformers, peft and tunewise, no GPU and no download. It runs in about half a minute.

# %%
import math
import random

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunewise.assets import ASSETS

torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")


def base():
    """A fresh copy of the pretrained model: GPT-2's architecture, 4.3 million parameters."""
    return AutoModelForCausalLM.from_pretrained(ASSETS / "tiny", dtype=torch.float32).eval()


sum(p.numel() for p in base().parameters())

# %% [markdown]
# ## Thirty lines
#
# A frozen linear layer, plus `scale * B A x`. B starts at zero, so the model starts as the base.


# %%
class LoRALinear(nn.Module):
    """layer(x) + alpha / rank * B A x; only A and B are trained."""

    def __init__(self, layer: nn.Module, rank: int, alpha: float) -> None:
        super().__init__()
        num_inputs, num_outputs = layer.weight.shape  # GPT-2's Conv1D stores its weight transposed
        self.layer = layer.requires_grad_(False)
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, num_inputs))
        self.B = nn.Parameter(torch.zeros(num_outputs, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as peft does

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.scale * (x @ self.A.T) @ self.B.T

    def merged(self) -> nn.Module:
        """The layer with the update added to its weight."""
        self.layer.weight.data += self.scale * (self.B @ self.A).T.detach()
        return self.layer


def add_lora(model: nn.Module, rank: int = 8, alpha: float = 32, kind: type[LoRALinear] = LoRALinear) -> nn.Module:
    """The model with every weight frozen, and LoRA on the layer that computes query, key and value."""
    model.requires_grad_(False)
    for block in model.transformer.h:
        block.attn.c_attn = kind(block.attn.c_attn, rank, alpha)
    return model


torch.manual_seed(0)
ours = add_lora(base())
print(sum(p.numel() for p in ours.parameters() if p.requires_grad), "trainable parameters")

# %% [markdown]
# ## Equal to peft's
#
# peft draws its A in another order, so we copy ours. B is random here, as after some training. Both models compute in
# float64, so that roundings do not hide a difference.

# %%
settings = LoraConfig(r=8, lora_alpha=32, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
theirs = get_peft_model(base(), settings).eval().double()
ours = ours.double()
pairs = [
    (mine.attn.c_attn, block.attn.c_attn)
    for mine, block in zip(ours.transformer.h, theirs.base_model.model.transformer.h, strict=True)
]
for mine, peft in pairs:
    nn.init.normal_(mine.B, std=0.01)
    peft.lora_A["default"].weight.data.copy_(mine.A.data)
    peft.lora_B["default"].weight.data.copy_(mine.B.data)

tokens = tokenizer("The function returns the number of", return_tensors="pt").input_ids


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


assert apart(ours(tokens).logits, theirs(tokens).logits) < 1e-6
for model in (ours, theirs):  # the loss by hand, because that of transformers rounds to fp32
    nn.functional.cross_entropy(model(tokens).logits[0, :-1], tokens[0, 1:]).backward()
for mine, peft in pairs:
    assert apart(mine.A.grad, peft.lora_A["default"].weight.grad) < 1e-6
    assert apart(mine.B.grad, peft.lora_B["default"].weight.grad) < 1e-6
print("logits and gradients are equal")

# %%
merged = theirs.merge_and_unload()
for (mine, _), block in zip(pairs, merged.transformer.h, strict=True):
    assert apart(mine.merged().weight, block.attn.c_attn.weight) < 1e-6
print("merged weights are equal")

# %% [markdown]
# ## Train it
#
# 100 steps of 8 tickets each. The loss counts only the answer.

# %%
from tunewise.lab.data.sources.tickets import tickets

rows = list(tickets())[:400]


def batch(chosen: list[dict[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded token ids, and labels: -100 where nothing is learned."""
    ids, labels = [], []
    for row in chosen:
        prompt = tokenizer(row["prompt"] + "\n").input_ids
        answer = [*tokenizer(row["completion"]).input_ids, tokenizer.eos_token_id]
        ids.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([-100] * len(prompt) + answer))
    pad = nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(labels, batch_first=True, padding_value=-100)


def train(model: nn.Module, num_steps: int, rate: float = 2e-2, seed: int = 0) -> list[float]:
    """The loss of every step."""
    order = random.Random(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / num_steps)
        ids, labels = batch(order.sample(rows, 8))
        loss = model(ids, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


torch.manual_seed(0)
tuned = add_lora(base())
losses = train(tuned, 100)
for step in (0, 9, 24, 49, 99):
    print(f"step {step + 1:3d}: loss {losses[step]:.2f}")
assert losses[-1] < 0.5

# %%
message = "Hello, my lamp stopped working after two days. I need it today.\n"
asked = tokenizer(message, return_tensors="pt").input_ids
answer = tuned.generate(
    asked, attention_mask=torch.ones_like(asked), max_new_tokens=32, do_sample=False, pad_token_id=0
)
print(tokenizer.decode(answer[0, asked.shape[1] :], skip_special_tokens=True))

# %% [markdown]
# ## Break it
#
# Four mistakes that do not crash. Each check below is one of the laws that tunewise tests on itself
# ([the laws](../docs/explanation/laws.md)).


# %%
def starts_as_the_base(model: nn.Module) -> bool:
    """Law: before the first step every method computes the base's function."""
    return torch.equal(model(tokens).logits, base()(tokens).logits)


def has_the_scale(model: nn.Module, alpha: float = 32, rank: int = 8) -> bool:
    """Law: the scale that is used is alpha / rank."""
    return all(block.attn.c_attn.scale == alpha / rank for block in model.transformer.h)


def scores_alike_twice(model: nn.Module) -> bool:
    """Law: scoring has no randomness."""
    return torch.equal(model(tokens).logits, model(tokens).logits)


def is_made_alike_twice(make) -> bool:
    """Law: the same seed gives the same weights."""
    first, second = make(), make()
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# %% [markdown]
# **1. B is random.** The tuned model no longer starts as the base; training first has to undo noise.


# %%
class RandomB(LoRALinear):
    def __init__(self, layer: nn.Module, rank: int, alpha: float) -> None:
        super().__init__(layer, rank, alpha)
        nn.init.normal_(self.B, std=0.02)


print("correct:", starts_as_the_base(add_lora(base())), " broken:", starts_as_the_base(add_lora(base(), kind=RandomB)))

# %% [markdown]
# **2. Alpha is forgotten.** The scale is 1 instead of 4. Nothing looks wrong: the model trains, only more slowly, and a
# comparison would blame LoRA.


# %%
class NoAlpha(LoRALinear):
    def __init__(self, layer: nn.Module, rank: int, alpha: float) -> None:
        super().__init__(layer, rank, alpha)
        self.scale = 1.0


torch.manual_seed(0)
right, wrong = (train(add_lora(base(), kind=kind), 25)[-1] for kind in (LoRALinear, NoAlpha))
print(f"loss after 25 steps: correct {right:.2f}, broken {wrong:.2f}")
print("correct:", has_the_scale(add_lora(base())), " broken:", has_the_scale(add_lora(base(), kind=NoAlpha)))

# %% [markdown]
# **3. Dropout is left on.** `model.eval()` was forgotten before scoring, so every scoring gives another number.


# %%
class WithDropout(LoRALinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.scale * (nn.functional.dropout(x, 0.1, self.training) @ self.A.T) @ self.B.T


dropping = add_lora(base(), kind=WithDropout)
for block in dropping.transformer.h:
    nn.init.normal_(block.attn.c_attn.B, std=0.01)
print("correct:", scores_alike_twice(dropping.eval()), " broken:", scores_alike_twice(dropping.train()))

# %% [markdown]
# **4. The seed is set after injection.** A was drawn before, so two runs "with the same seed" differ, and their
# difference is not paired.


# %%
def seeded_before():
    torch.manual_seed(7)
    return add_lora(base())


def seeded_after():
    model = add_lora(base())
    torch.manual_seed(7)
    return model


print("correct:", is_made_alike_twice(seeded_before), " broken:", is_made_alike_twice(seeded_after))
assert is_made_alike_twice(seeded_before)
assert not is_made_alike_twice(seeded_after)

# %% [markdown]
# Each mistake was found in a second by a check before training. Found after training, each costs a study.
#
# Next: [Which rank?](which_rank.ipynb), or the note [03 The implementation](../docs/learn/03-implementation.md).
