"""Pretrain the bundled base model, a small GPT-2 with its tokenizer, from text files.

    python scripts/pretrain_base.py --out tiny --text books.txt.xz peps.txt.xz speeches.txt

The defaults are those of `src/tunewise/assets/tiny`, except its budget. That was wall-clock time (`--minutes 95
--compile` on 2 CPU cores), which came to 1.24 passes over its text. On a CPU the same files, seed, machine and versions
give the same weights to the bit. With `--minutes` they give the same tokenizer and order, and as many steps as fit.

Shapes: W windows, T tokens of a window, B windows of a batch, V tokens of the vocabulary.
"""

import argparse
import lzma
import math
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
END_ID = 0  # the trainer numbers special tokens first
SMALLEST_VOCABULARY = 257  # the end-of-text token and every byte
TOPICS = "pydoc_data.topics"

PARAGRAPHS_PER_BLOCK = 50  # long enough to have context, short enough to hold out one in a hundred
HELD_OUT_EVERY, HELD_OUT_PLACE = 100, 7
FINGERPRINT_LENGTH = 40  # letters and digits; fewer occur in unrelated paragraphs as well
TOKENIZER_SHARE = 3  # every third block: more text hardly changes the tokens, but takes longer

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1  # of matrices; biases and norms do not decay
CLIP_NORM = 1.0
WARMUP_STEPS = 100
DECAY_FROM = 0.6  # share of the budget after which the rate falls linearly ...
FINAL_FACTOR = 0.02  # ... to this share of the peak
REPORT_EVERY = 100  # steps


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the model, except the text."""

    epochs: float = 1.24
    minutes: float | None = None  # overrides epochs
    context: int = 512
    batch: int = 16
    vocabulary: int = 4096
    width: int = 256
    layers: int = 4
    heads: int = 4
    rate: float = 3e-3
    seed: int = 0
    compile: bool = False


class Texts(NamedTuple):
    """Blocks of paragraphs for training, and blocks that are only scored, by name of their source."""

    train: list[str]
    held_out: dict[str, list[str]]


class HeldOutLoss(NamedTuple):
    """Mean loss on held-out text in fp32, with the weights as saved."""

    nats_per_token: float | None  # None: less text than one window
    num_tokens: int  # number of predicted tokens


# --- text -> training blocks, held-out blocks


def read_texts(paths: Sequence[Path], seed: int) -> Texts:
    """Training blocks of all files in a random order; held-out blocks of each file, and the topics of pydoc.

    A paragraph that also occurs in a topic of pydoc is in neither, so that the topics stay unseen: forgetting is
    measured on them.
    """
    topics = pydoc_topics()
    known = fingerprints(topics)
    train: list[str] = []
    held_out: dict[str, list[str]] = {}
    for path in paths:
        blocks = blocks_without(read_text(path), known)
        held_out[str(path)] = blocks[HELD_OUT_PLACE::HELD_OUT_EVERY]
        train += [block for i, block in enumerate(blocks) if i % HELD_OUT_EVERY != HELD_OUT_PLACE]
    random.Random(seed).shuffle(train)
    return Texts(train, held_out | {TOPICS: topics})


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, which may be compressed with xz."""
    if path.suffix == ".xz":
        with lzma.open(path, "rt", encoding="utf-8") as file:
            return str(file.read())
    return path.read_text(encoding="utf-8")


def pydoc_topics() -> list[str]:
    """The help texts of the running Python, by name of the topic."""
    from pydoc_data.topics import topics

    return [text for _, text in sorted(topics.items())]


def fingerprint(paragraph: str) -> str:
    """First letters and digits of a paragraph, equal for the same words with other markup and line breaks."""
    return re.sub(r"\W+", "", paragraph.lower())[:FINGERPRINT_LENGTH]


def fingerprints(texts: Sequence[str]) -> frozenset[str]:
    """Fingerprints of all paragraphs that are long enough to have a unique one."""
    found = (fingerprint(paragraph) for text in texts for paragraph in text.split("\n\n"))
    return frozenset(mark for mark in found if len(mark) == FINGERPRINT_LENGTH)


def blocks_without(text: str, known: frozenset[str]) -> list[str]:
    """Text in blocks of 50 paragraphs, without paragraphs whose fingerprints are `known`."""
    kept = [paragraph for paragraph in text.split("\n\n") if fingerprint(paragraph) not in known]
    starts = range(0, len(kept), PARAGRAPHS_PER_BLOCK)
    return ["\n\n".join(kept[start : start + PARAGRAPHS_PER_BLOCK]) for start in starts]


# --- blocks -> tokens


def train_tokenizer(blocks: Sequence[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE of at most `vocabulary` tokens; the end-of-text token comes first."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(blocks[::TOKENIZER_SHARE], trainer)
    return bpe


def windows(bpe: Tokenizer, blocks: Sequence[str], context: int) -> torch.Tensor:
    """ids_WT of all blocks as windows of `context` tokens. Each block ends with end-of-text; the rest is dropped."""
    pieces = [np.array([*encoding.ids, END_ID], dtype=np.int64) for encoding in bpe.encode_batch(list(blocks))]
    ids = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
    whole = len(ids) // context * context
    return torch.from_numpy(ids[:whole].reshape(-1, context))


# --- training


def new_model(recipe: Recipe) -> GPT2LMHeadModel:
    """Untrained GPT-2 without dropout, because each text is seen about once."""
    config = GPT2Config(
        vocab_size=recipe.vocabulary,
        n_positions=recipe.context,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
    )
    torch.manual_seed(recipe.seed)
    return GPT2LMHeadModel(config)


def make_optimizer(model: GPT2LMHeadModel, rate: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True)


def spent_shares(recipe: Recipe, num_windows: int) -> Iterator[float]:
    """Yield, before every step, the share of the budget that is spent; stop when it is spent."""
    if recipe.minutes is None:
        num_steps = max(1, round(recipe.epochs * num_windows / recipe.batch))
        yield from (step / num_steps for step in range(num_steps))
        return
    start = time.monotonic()
    while (share := (time.monotonic() - start) / (60 * recipe.minutes)) < 1:
        yield share


def rate_factor(step: int, share: float) -> float:
    """Factor on the peak rate: linear warm-up, constant, linear decay; never 0. `step` counts from 0."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    left = (1 - share) / (1 - DECAY_FROM)
    return warmup * min(1.0, max(FINAL_FACTOR, left))


def batches(ids_WT: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Yield ids_BT without end, in a new order for every pass; windows that do not fill a batch are left out."""
    generator = np.random.default_rng(recipe.seed)
    while True:
        order = torch.from_numpy(generator.permutation(len(ids_WT)))
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            yield ids_WT[order[start : start + recipe.batch]]


def next_token_loss(model: torch.nn.Module, ids_BT: torch.Tensor, reduction: str) -> torch.Tensor:
    """Cross-entropy in nats of every token except the first of each window."""
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), ids_BT[:, 1:].flatten(), reduction=reduction)


def pretrain(model: GPT2LMHeadModel, ids_WT: torch.Tensor, recipe: Recipe) -> None:
    """Train `model` in place until the budget is spent; fp32 weights under bf16 autocast."""
    device = model.device.type
    forward = torch.compile(model) if recipe.compile else model
    optimizer = make_optimizer(model, recipe.rate)
    model.train()
    spent = spent_shares(recipe, len(ids_WT))
    for step, (share, ids_BT) in enumerate(zip(spent, batches(ids_WT, recipe), strict=False)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * rate_factor(step, share)
        with torch.autocast(device, torch.bfloat16):
            loss = next_token_loss(forward, ids_BT.to(device), "mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        if step % REPORT_EVERY == 0:
            tokens = (step + 1) * ids_BT.numel()
            print(f"step {step + 1}, {tokens / 1e6:.1f} M tokens, {share:.0%}, loss {loss.item():.3f}", flush=True)


def held_out_loss(model: GPT2LMHeadModel, ids_WT: torch.Tensor, batch: int) -> HeldOutLoss:
    """Summed loss of all windows divided by the number of predicted tokens."""
    num_tokens = ids_WT[:, 1:].numel()
    if not num_tokens:
        return HeldOutLoss(None, 0)
    model.eval()
    with torch.no_grad():
        parts = [next_token_loss(model, ids_BT.to(model.device), "sum").item() for ids_BT in ids_WT.split(batch)]
    return HeldOutLoss(math.fsum(parts) / num_tokens, num_tokens)


# --- the whole recipe


def make_base(recipe: Recipe, paths: Sequence[Path], out: Path) -> dict[str, HeldOutLoss]:
    """Write model (fp16) and tokenizer to `out` and return the held-out loss of every text. Raises ValueError."""
    texts = read_texts(paths, recipe.seed)
    bpe = train_tokenizer(texts.train, recipe.vocabulary)
    ids_WT = windows(bpe, texts.train, recipe.context)
    if len(ids_WT) < recipe.batch:
        raise ValueError(
            f"the text makes {len(ids_WT)} windows of {recipe.context} tokens, but one batch takes {recipe.batch}. "
            "Give more text, or lower --batch or --context."
        )
    model = new_model(recipe).to("cuda" if torch.cuda.is_available() else "cpu")
    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{num_parameters:,} parameters, {ids_WT.numel():,} tokens to train on", flush=True)
    pretrain(model, ids_WT, recipe)

    model.to(torch.float16).save_pretrained(out)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END, model_max_length=recipe.context
    )
    tokenizer.save_pretrained(out)
    model.to(torch.float32)  # the rounded weights, as the saved model has them
    held_out = {name: windows(bpe, blocks, recipe.context) for name, blocks in texts.held_out.items()}
    return {name: held_out_loss(model, ids, recipe.batch) for name, ids in held_out.items()}


def text_file(argument: str) -> Path:
    """The path of an existing file."""
    if not Path(argument).is_file():
        raise argparse.ArgumentTypeError(f"no such file: {argument}")
    return Path(argument)


def amount(argument: str) -> float:
    """A finite number above 0."""
    if not 0 < float(argument) < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, but got {argument}")
    return float(argument)


def count(argument: str) -> int:
    """A whole number, at least 1."""
    if int(argument) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {argument}")
    return int(argument)


def parse_arguments(arguments: Sequence[str] | None) -> tuple[Recipe, list[Path], Path]:
    """Recipe, text files and output folder from the command line."""
    parser = argparse.ArgumentParser(
        description="Pretrain a small GPT-2 with its tokenizer from text files. The defaults make the bundled base.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--text", type=text_file, nargs="+", required=True, metavar="FILE", help="UTF-8, txt or txt.xz")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--epochs", type=amount, default=Recipe.epochs, help="passes over the text")
    budget.add_argument("--minutes", type=amount, default=Recipe.minutes, help="wall-clock limit instead of passes")
    parser.add_argument("--context", type=count, default=Recipe.context, help="tokens per window")
    parser.add_argument("--batch", type=count, default=Recipe.batch, help="windows per step")
    parser.add_argument("--vocabulary", type=count, default=Recipe.vocabulary, help="tokens of the tokenizer")
    parser.add_argument("--width", type=count, default=Recipe.width, help="width of the residual stream")
    parser.add_argument("--layers", type=count, default=Recipe.layers, help="transformer blocks")
    parser.add_argument("--heads", type=count, default=Recipe.heads, help="attention heads per block")
    parser.add_argument("--rate", type=amount, default=Recipe.rate, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="seed of weights and order")
    parser.add_argument("--compile", action="store_true", help="torch.compile: slow to start, then faster")
    options = vars(parser.parse_args(arguments))
    paths, out = options.pop("text"), options.pop("out")
    recipe = Recipe(**options)
    if recipe.width % recipe.heads:
        parser.error(f"--heads must divide --width, but got {recipe.heads} and {recipe.width}")
    if recipe.vocabulary < SMALLEST_VOCABULARY:
        parser.error(f"--vocabulary must be at least {SMALLEST_VOCABULARY}, but got {recipe.vocabulary}")
    return recipe, paths, out


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe and print the held-out losses as a table."""
    recipe, paths, out = parse_arguments(arguments)
    try:
        losses = make_base(recipe, paths, out)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print("| held-out text | nats per token | tokens |\n| --- | --- | --- |")
    for name, (loss, num_tokens) in losses.items():
        print(f"| {name} | {'too short' if loss is None else f'{loss:.3f}'} | {num_tokens:,} |")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
