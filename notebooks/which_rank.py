# ---
# jupyter:
#   jupytext: {formats: 'ipynb,py:percent'}
# ---

# %% [markdown]
# # Which rank?
#
# How many directions does a task need? We fine-tune the bundled model in full, look at the singular values of what
# changed, cut the change down to rank r, and score. Then we train an adapter of that rank and compare.
#
# About half a minute on a CPU, no download.

# %%
import random

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunewise.assets import ASSETS
from tunewise.lab.data.sources.tickets import tickets

torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")
rows = list(tickets())
train_rows, test_rows = rows[:400], rows[1000:1040]


def base():
    """A fresh copy of the pretrained model."""
    return AutoModelForCausalLM.from_pretrained(ASSETS / "tiny", dtype=torch.float32)


def batch(chosen):
    """Padded token ids, and labels: -100 where nothing is learned."""
    ids, labels = [], []
    for row in chosen:
        prompt = tokenizer(row["prompt"] + "\n").input_ids
        answer = [*tokenizer(row["completion"]).input_ids, tokenizer.eos_token_id]
        ids.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([-100] * len(prompt) + answer))
    pad = nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(labels, batch_first=True, padding_value=-100)


def train(model, rate, num_steps=40, seed=0):
    """Train on 8 rows a step; the rate falls linearly."""
    order = random.Random(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / num_steps)
        ids, labels = batch(order.sample(train_rows, 8))
        model(ids, labels=labels).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model


@torch.no_grad()
def test_loss(model):
    """Nats per supervised token of the test rows."""
    ids, labels = batch(test_rows)
    return float(model.eval()(ids, labels=labels).loss)


print(f"base: {test_loss(base()):.2f} nats per token")
full = train(base(), 3e-3)
print(f"full fine-tuning: {test_loss(full):.4f}")

# %% [markdown]
# ## The spectrum of the change
#
# For each linear layer: the weight after minus the weight before, and its singular values. Their squares add up to the
# size of the change, so a share of them says how much of the change the first r directions hold.

# %%
start, end = base().state_dict(), full.state_dict()
layers = [name for name in start if ".c_" in name and name.endswith("weight")]
parts = {name: torch.linalg.svd(end[name] - start[name], full_matrices=False) for name in layers}
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
print("rank   share of the change")
for rank in RANKS:
    held = sum(float((S[:rank] ** 2).sum()) for _, S, _ in parts.values())
    print(f"{rank:4d}   {held / sum(float((S**2).sum()) for _, S, _ in parts.values()):.0%}")

# %% [markdown]
# **Predict:** at which rank is the truncated change as good as the whole?
#
# ## Truncate and score

# %%
cut = {}
for rank in RANKS:
    model = base()
    state = model.state_dict()
    for name, value in end.items():
        U, S, V = parts.get(name, (None, None, None))
        kept = value if U is None else start[name] + U[:, :rank] @ torch.diag(S[:rank]) @ V[:rank]
        state[name].copy_(kept)  # embeddings and norms as full fine-tuning left them
    cut[rank] = test_loss(model)
    print(f"rank {rank:4d}: {cut[rank]:.4f}")

# %% [markdown]
# ## Train adapters of these ranks
#
# An adapter is not a truncated full update. It looks for the best update *of its rank* from the start.

# %%
trained = {}
for rank in (1, 4, 16):
    torch.manual_seed(0)
    settings = LoraConfig(
        r=rank, lora_alpha=32, target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    trained[rank] = test_loss(train(get_peft_model(base(), settings), 9e-3))
    print(f"rank {rank:4d}: trained {trained[rank]:.4f}, truncated {cut[rank]:.4f}")

# %% [markdown]
# Truncation does not predict training. At low ranks the trained adapter is far better than the best part of the full
# update: it found another update. At rank 16 it is the other way round here; but the truncated model also keeps the
# embeddings and norms as full fine-tuning left them, which an adapter does not train.
#
# So the spectrum is a hint and not an answer. The answer is to train two or three ranks, with several seeds, and to
# compare them with a margin: `rank: auto` in a study does that
# ([choose rank and modules](../docs/how-to/rank-and-modules.md)).

# %%
assert trained[1] < cut[1]
