"""Laws 1, 2, 3, 7 and 24: what one step follows and what a score says is arithmetic over tokens, however it is cut."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from small_models import PADDING, STORIES, VOCABULARY, classifier, labelled_examples, language_model, save_small_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, MixtralConfig

import tunewise.lab.train.loss
from lab_fixtures import CUTS, LENGTHS, Gradients, relative_difference, small_config, without_dropout
from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Batching, Example, make_batch
from tunewise.lab.evaluate.score import score, summarise
from tunewise.lab.methods import build_method
from tunewise.lab.models.load import BUNDLED, Base
from tunewise.lab.train.loop import Loop, train
from tunewise.lab.train.loss import add_gradient, example_losses
from tunewise.spec import FullMethod, LoraMethod

REAL_MODELS = [
    pytest.param(BUNDLED["tiny"], id="tiny"),
    pytest.param(
        STORIES, id="stories260k", marks=pytest.mark.skipif(not STORIES.is_dir(), reason="../shared is not here")
    ),
]
SMALL_CLASSIFIERS = ("bert", "roberta", "qwen2")


def answers(lengths: Sequence[int], seed: int = 0) -> list[Example]:
    """Random tokens, of which the second half is supervised."""
    draw = random.Random(seed)
    made = []
    for row, length in enumerate(lengths):
        ids = [draw.randrange(4, VOCABULARY) for _ in range(length)]
        supervised = [t >= (length + 1) // 2 for t in range(length)]
        made.append(Example(f"test:{row + 1}", f"unit {row}", ids, supervised, 0, -1, "", ""))
    return made


def gradients(model: torch.nn.Module, examples: Sequence[Example], pieces: Sequence[Sequence[int]]) -> Gradients:
    """What the optimizer sees in one step of the loop; at rate 0, so that the model stays as it is."""
    found: Gradients = {}

    def keep(model: torch.nn.Module, step: int) -> None:
        found.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    learning = [p for p in model.parameters() if p.requires_grad]
    loop = Loop(torch.optim.SGD(learning, lr=0.0), iter([1.0]), 1e9, Compute("cpu", "fp32"), keep)
    for _ in train(model, [[make_batch(examples, piece, PADDING) for piece in pieces]], loop):
        assert found, "the step had a gradient"
    return found


# --- law 1


@pytest.mark.parametrize("folder", REAL_MODELS)
@pytest.mark.parametrize("method", [FullMethod(), LoraMethod(rank=4)], ids=["full", "lora"])
def test_law_01_the_gradient_of_a_step_does_not_depend_on_the_micro_batches(folder: Path, method: Any) -> None:
    """Law 1: the gradient of a step is that of (sum of the NLL of its tokens) / (number of its tokens), so 8, 2 x 4,
    8 x 1 and an uneven last micro-batch give the same one, also where examples are of unequal length."""
    model = without_dropout(build_method(method, "lm", 1).prepare(language_model(str(folder))))
    with torch.no_grad():  # B = 0 would hide what A should learn
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0), std=0.02)
    examples = answers(LENGTHS)

    num_tokens = sum(sum(e.supervised) for e in examples)
    total = sum(
        (example_losses(model, make_batch(examples, [row], PADDING)).nll_B.sum() for row in range(8)), torch.zeros(())
    )
    (total / num_tokens).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    for name, pieces in CUTS.items():
        assert relative_difference(gradients(model, examples, pieces), expected) < 1e-5, name


@pytest.mark.parametrize("family", SMALL_CLASSIFIERS)
def test_law_01_holds_for_classification(family: str, tmp_path: Path) -> None:
    """Law 1: the same for labels: the mean over the examples of the step, not over micro-batches."""
    base = classifier(save_small_model(family, tmp_path / "model"), seed=0)
    model, examples = (
        without_dropout(build_method(FullMethod(), "classify", 1).prepare(base)),
        labelled_examples(list(LENGTHS)),
    )
    expected = gradients(model, examples, CUTS["8 at once"])
    for name, pieces in CUTS.items():
        assert relative_difference(gradients(model, examples, pieces), expected) < 1e-5, name


# --- law 2


def nll_by_example(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["example"]: row["nll"] for row in rows}


@pytest.mark.parametrize("folder", REAL_MODELS)
def test_law_02_loss_and_perplexity_do_not_depend_on_batches_or_order(folder: Path) -> None:
    """Law 2: loss and perplexity are sums over examples divided by a count of tokens, so the batch of the evaluation
    and the order of the rows change nothing (1e-6), nor the loss of any example."""
    model, examples = language_model(str(folder)).model, answers(LENGTHS)
    scrambled = random.Random(1).sample(examples, len(examples))
    alone = score(model, examples, Batching(1, PADDING), Compute("cpu", "fp32"))  # one example a batch
    reference = summarise(alone, 0).nll
    for rows in (examples, scrambled, examples[::-1]):
        for max_tokens in (1, 2 * max(LENGTHS), 7 * max(LENGTHS), 10_000):
            scored = score(model, rows, Batching(max_tokens, PADDING), Compute("cpu", "fp32"))
            assert nll_by_example(scored) == pytest.approx(nll_by_example(alone), rel=1e-5)
            found = summarise(scored, 0).nll
            assert found == pytest.approx(reference, rel=1e-6)
            assert math.exp(found) == pytest.approx(math.exp(reference), rel=1e-5)


@pytest.mark.parametrize("family", SMALL_CLASSIFIERS)
def test_law_02_accuracy_does_not_depend_on_batches_or_order(family: str, tmp_path: Path) -> None:
    """Law 2: accuracy is (right examples) / (examples), whatever the batches; a mean of batch means is not, where the
    last batch is smaller."""
    model = classifier(save_small_model(family, tmp_path / "model"), seed=3).model
    examples = labelled_examples([*LENGTHS, 6, 11, 8], seed=2)
    rows = score(model, examples, Batching(1, PADDING), Compute("cpu", "fp32"))
    right = sum(row["prediction"] == example.label for row, example in zip(rows, examples, strict=True))
    for order in (examples, examples[::-1]):
        for max_tokens in (1, 2 * max(LENGTHS), 7 * max(LENGTHS)):
            scored = score(model, order, Batching(max_tokens, PADDING), Compute("cpu", "fp32"))
            assert nll_by_example(scored) == pytest.approx(nll_by_example(rows), rel=1e-5)
            found = summarise(scored, 0)
            assert found.accuracy == right / len(examples)
            assert found.nll == pytest.approx(sum(row["nll"] for row in rows) / len(examples), rel=1e-6)


# --- law 3


@pytest.mark.parametrize("folder", REAL_MODELS)
def test_law_03_perplexity_is_exp_of_the_summed_nll_over_the_tokens(folder: Path) -> None:
    """Law 3: perplexity = exp(sum of NLL / number of supervised tokens), of a loop in float64 that knows no batch, no
    padding and no mask; neither padding nor the prompt is counted."""
    examples = answers(LENGTHS)
    exact = language_model(str(folder)).model.double()
    nll, num_tokens = 0.0, 0
    with torch.no_grad():
        for example in examples:
            log_probabilities_TV = exact(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
            for t, is_supervised in enumerate(example.supervised):
                if is_supervised:
                    nll -= float(log_probabilities_TV[t - 1, example.input_ids[t]])
                    num_tokens += 1
    rows = score(language_model(str(folder)).model, examples, Batching(2048, PADDING), Compute("cpu", "fp32"))
    assert sum(row["num_tokens"] for row in rows) == num_tokens
    assert math.exp(summarise(rows, 0).nll) == pytest.approx(math.exp(nll / num_tokens), rel=1e-5)


# --- law 7


@pytest.mark.parametrize("folder", REAL_MODELS)
def test_law_07_examples_with_nothing_to_train_on_add_nothing_and_never_nan(folder: Path) -> None:
    """Law 7: an example without a supervised token contributes 0 to the sum of the NLL and 0 to the count of tokens,
    so the gradient of its step is that of the other examples."""
    model = without_dropout(build_method(FullMethod(), "lm", 1).prepare(language_model(str(folder))))
    examples = answers(LENGTHS[:4])
    empty = Example("test:9", "unit 9", [5, 6, 7], [False] * 3, 0, -1, "", "")
    losses = example_losses(model, make_batch([*examples, empty], range(5), PADDING)).nll_B
    assert float(losses[4].detach()) == 0.0
    alone = example_losses(model, make_batch([empty], [0], PADDING)).nll_B
    assert alone.tolist() == [0.0]
    expected = gradients(model, examples, [range(4)])
    for pieces in ([range(5)], [range(4), [4]]):  # beside others, and as a micro-batch of its own
        found = gradients(model, [*examples, empty], pieces)
        assert all(torch.isfinite(g).all() for g in found.values())
        assert relative_difference(found, expected) < 1e-5


def test_law_07_a_step_with_nothing_to_train_on_is_a_clear_error() -> None:
    """Law 7: 0 / 0 is no loss: a step none of whose examples has a supervised token is refused, and moves nothing."""
    model = build_method(FullMethod(), "lm", 1).prepare(language_model("tiny"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    empty = Example("test:9", "unit 9", [5, 6, 7], [False] * 3, 0, -1, "", "")
    with pytest.raises(AssertionError, match="step 1 has nothing to train on"):
        gradients(model, [empty, empty], [[0], [1]])
    assert all(torch.equal(p.detach(), before[name]) for name, p in model.named_parameters())


# --- law 24


def tied(folder: Path) -> Base:
    base = language_model(str(folder))
    head, embedding = base.model.get_output_embeddings(), base.model.get_input_embeddings()
    assert head.weight is embedding.weight
    return base


def untied(folder: Path) -> Base:
    base = language_model(str(folder))
    head = base.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    base.model.config.tie_word_embeddings = False
    return base


def plain_loss(model: torch.nn.Module, examples: Sequence[Example]) -> torch.Tensor:
    """All logits of every place, labels of -100 where nothing is supervised: what most trainers compute."""
    batch = make_batch(examples, range(len(examples)), PADDING)
    labels_BT = torch.full_like(batch.input_ids_BT, -100)
    for b, example in enumerate(examples):
        for t, is_supervised in enumerate(example.supervised):
            if is_supervised:
                labels_BT[b, t] = example.input_ids[t]
    logits_BTV = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False).logits
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="sum")


@pytest.mark.parametrize("folder", REAL_MODELS)
@pytest.mark.parametrize(
    ("head", "adapts_head"),
    [(tied, False), (untied, False), (untied, True)],  # an adapter beside a tied head would not be tied
    ids=["tied", "untied", "adapted"],
)
def test_law_24_selected_logits_change_neither_loss_nor_gradients(folder: Path, head: Any, adapts_head: bool) -> None:
    """Law 24: computing logits only where a token is supervised gives the loss and the gradients of computing all of
    them, with a tied, an untied and an adapted head."""
    base = head(folder)
    if adapts_head:
        names = [n for n, _ in base.model.named_modules() if n.endswith(("lm_head", "c_attn", "q_proj"))]
        config = LoraConfig(r=4, target_modules=names, init_lora_weights=False)
        model: torch.nn.Module = get_peft_model(base.model, config)
    else:
        model = build_method(FullMethod(), "lm", 1).prepare(base)
    without_dropout(model)
    examples = answers(LENGTHS)

    def result(loss: torch.Tensor) -> tuple[float, Gradients]:
        model.zero_grad()
        loss.backward()
        return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected_loss, expected = result(plain_loss(model, examples))
    loss, found = result(example_losses(model, make_batch(examples, range(8), PADDING)).nll_B.sum())
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert relative_difference(found, expected) < 1e-5
    if adapts_head:
        assert any("lm_head" in name and bool(g.any()) for name, g in found.items()), "the head's adapter learns"


CHUNK = 7  # targets whose logits exist at once: the 40 of the examples take six parts, the last one short


def in_parts(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    monkeypatch.setattr(tunewise.lab.train.loss, "MAX_LOGITS", CHUNK * base.config.vocab_size + 1)


def gradient_of(model: torch.nn.Module, examples: Sequence[Example]) -> tuple[float, Gradients]:
    """Loss and gradients of the loop's own path."""
    model.zero_grad()
    loss = add_gradient(model, make_batch(examples, range(len(examples)), PADDING), 1, Compute("cpu", "fp32"))
    return float(loss), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def of_plain_loss(model: torch.nn.Module, examples: Sequence[Example]) -> tuple[float, Gradients]:
    model.zero_grad()
    loss = plain_loss(model, examples)
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("folder", REAL_MODELS)
@pytest.mark.parametrize("arm", ["tied", "untied", "lora", "adapted head"])
def test_law_24_logits_in_parts_change_neither_loss_nor_gradients(
    folder: Path, arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 24: logits of a few targets at a time give the loss and the gradients of all of them at once, where the head
    learns (tied and untied), where it is frozen, and where it has an adapter."""
    base = tied(folder) if arm in ("tied", "lora") else untied(folder)
    if arm == "adapted head":
        names = [n for n, _ in base.model.named_modules() if n.endswith(("lm_head", "c_attn", "q_proj"))]
        model: Any = get_peft_model(base.model, LoraConfig(r=4, target_modules=names, init_lora_weights=False))
    else:
        model = build_method(LoraMethod(rank=4) if arm == "lora" else FullMethod(), "lm", 1).prepare(base)
    without_dropout(model)
    examples = answers(LENGTHS)
    assert sum(e.num_targets for e in examples) == 40 - 3  # odd lengths have one target fewer than half
    expected_loss, expected = of_plain_loss(model, examples)
    in_parts(model, monkeypatch)
    loss, found = gradient_of(model, examples)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite", "opt", "mixtral"])
def test_law_24_what_a_model_does_to_its_logits_holds_for_every_part(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 24: soft caps (Gemma 2), scales (Cohere, Granite), a decoder within the body (OPT) and a decoder that returns
    more than hidden states (Mixtral) are the model's own affair in the later parts, too."""
    model, examples = with_a_tail(family), answers(LENGTHS)
    expected_loss, expected = of_plain_loss(model, examples)
    in_parts(model, monkeypatch)
    loss, found = gradient_of(model, examples)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert relative_difference(found, expected) < 1e-5
    with torch.no_grad():
        scored = example_losses(model, make_batch(examples, range(len(examples)), PADDING)).nll_B
    assert float(scored.sum()) == pytest.approx(expected_loss, rel=1e-6)


def with_a_tail(family: str) -> Any:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {**sizes, "num_attention_heads": 4, "num_key_value_heads": 2}
    configs: dict[str, Any] = {
        "gemma2": lambda: Gemma2Config(**heads, head_dim=8, final_logit_softcapping=0.1),
        "cohere": lambda: CohereConfig(**heads, logit_scale=0.3),
        "granite": lambda: GraniteConfig(**heads, logits_scaling=7.0),
        "opt": lambda: small_config("opt"),
        "mixtral": lambda: MixtralConfig(**heads, num_local_experts=2, num_experts_per_tok=2),
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configs[family]()).eval()  # dropout off


def test_law_24_no_more_logits_exist_at_once_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 24: in training and in scoring no tensor holds more than MAX_LOGITS logits or gradients of logits, however
    many targets a batch has, and the last part is no larger than the others."""
    model = build_method(LoraMethod(rank=4), "lm", 1).prepare(language_model("tiny"))
    examples = answers(LENGTHS)
    in_parts(model, monkeypatch)
    with LargestLogits(4096) as seen:
        gradient_of(model, examples)
        with torch.no_grad():
            example_losses(model, make_batch(examples, range(len(examples)), PADDING))
    assert seen.rows == CHUNK


class LargestLogits(TorchDispatchMode):
    """The most rows that any tensor had whose last dimension is the vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        owned = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor) or tensor.untyped_storage().data_ptr() in owned:
                continue  # a view, as of the transposed weights of the head
            if tensor.dim() >= 2 and tensor.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return result
