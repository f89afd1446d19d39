# ---
# jupyter:
#   jupytext: {formats: 'ipynb,py:percent'}
# ---

# %% [markdown]
# # What does it cost?
#
# Where does the memory of a training step go, and which part does LoRA save? First by arithmetic, then counted on real
# tensors.

# %%
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tunewise.assets import ASSETS

torch.set_num_threads(1)
MIB = 2**20


def base():
    """A fresh copy of the pretrained model, 4.3 million parameters."""
    return AutoModelForCausalLM.from_pretrained(ASSETS / "tiny", dtype=torch.float32)


def with_lora():
    """The base with LoRA of rank 8 on all linear layers."""
    settings = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM")
    return get_peft_model(base(), settings)


# %% [markdown]
# ## Predict
#
# In fp32 a weight has 4 bytes, its gradient 4, and AdamW keeps two moments of 4 bytes each. Gradients and moments exist
# only for what is *trained*.


# %%
def predicted(model):
    """MiB of weights, gradients and moments."""
    every = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"weights": 4 * every / MIB, "gradients": 4 * trained / MIB, "moments": 8 * trained / MIB}


for name, model in {"full": base(), "lora": with_lora()}.items():
    print(name, {use: round(mib, 2) for use, mib in predicted(model).items()})

# %% [markdown]
# ## Count
#
# One real step of 8 examples of 128 tokens. Weights, gradients and moments are tensors that we can add up. Activations
# are what autograd saves for the backward pass: a hook sees every saved tensor.


# %%
def counted(model, rows=8, length=128):
    """MiB of the tensors of one training step."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    parameters = {p.data_ptr() for p in model.parameters()}
    saved = {}

    def keep(tensor):
        if tensor.data_ptr() not in parameters:  # a weight that is saved takes no new memory
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.randint(0, 4096, (rows, length), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    moments = [t for state in optimizer.state.values() for t in (state["exp_avg"], state["exp_avg_sq"])]
    return {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()) / MIB,
        "gradients": sum(p.grad.numel() * 4 for p in model.parameters() if p.grad is not None) / MIB,
        "moments": sum(t.numel() * t.element_size() for t in moments) / MIB,
        "saved for backward": sum(saved.values()) / MIB,
    }


measured = {"full": counted(base()), "lora": counted(with_lora())}
for name, uses in measured.items():
    print(name, {use: round(mib, 2) for use, mib in uses.items()})
for name, model in {"full": base(), "lora": with_lora()}.items():
    for use, mib in predicted(model).items():
        assert abs(measured[name][use] - mib) < 0.01, "the prediction is exact"

# %% [markdown]
# ## As bars

# %%
import altair as alt
import vl_convert


class Chart:
    """A chart that every viewer of notebooks draws."""

    def __init__(self, chart):
        self.chart = chart

    def __repr__(self):
        return "<chart>"

    def _repr_svg_(self):
        return vl_convert.vegalite_to_svg(self.chart.to_dict())


bars = [{"arm": arm, "use": use, "MiB": mib} for arm, uses in measured.items() for use, mib in uses.items()]
Chart(
    alt.Chart(alt.Data(values=bars))
    .mark_bar()
    .encode(x=alt.X("MiB:Q"), y=alt.Y("arm:N", title=None), color=alt.Color("use:N", title=None))
    .properties(width=560, height=90)
)

# %% [markdown]
# LoRA all but removes gradients and moments. What is saved for the backward pass stays, because the gradient has to
# pass through the whole model to reach the adapters of the first layer. Here, with a small model and many tokens, that
# part dominates, so LoRA saves little. With billions of parameters weights and moments dominate, and LoRA saves most
# of the memory:

# %%
for billions, trained in ((0.124, 0.0024), (1, 0.01), (8, 0.04)):
    full, lora = 16 * billions, 2 * billions + 16 * trained  # frozen weights in bf16
    print(f"{billions:5} billion parameters: full {full:5.1f} GB, LoRA {lora:4.1f} GB, before activations")

# %% [markdown]
# `tunewise plan --model NAME` predicts all parts for your model, data and GPU, from the configuration alone
# ([know and reduce the cost](../docs/how-to/cost.md)).
