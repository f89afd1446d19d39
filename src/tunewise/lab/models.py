"""Base models and tokenizers: bundled, from a folder, or from the hub; always fp32, always safetensors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from tunewise.errors import ModelError
from tunewise.lab.peft_loading import load_adapter
from tunewise.spec import Task

ASSETS = Path(__file__).parent.parent / "assets"
BUNDLED = {"tiny": ASSETS / "tiny"}
# A word of a loading library's error -> what to do next.
ADVICE = {
    "custom code": " Its code is not run, unless you have read it and set `trust_remote_code: true`.",
    "safetensors": " Convert pickled weights with `model.save_pretrained(folder)`.",
}
LINEAR = (torch.nn.Linear, Conv1D)


@dataclass(frozen=True)
class Base:
    """A base model in fp32 with what the arms must know of it."""

    model: PreTrainedModel
    head_modules: tuple[str, ...]  # modules that learn in every arm: not from the checkpoint, or the label layer
    new_parameters: tuple[str, ...]  # parameters that the checkpoint did not provide


def inner_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model within a peft adapter, or the model itself."""
    inner: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner


def model_source(name: str) -> str:
    """What transformers is asked for: the folder of a bundled model, else the name itself."""
    return str(BUNDLED.get(name, name))


@contextmanager
def _readable_errors(name: str, what: str) -> Iterator[None]:
    """Errors of the loading libraries become one ModelError that names the model."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = next((advice for word, advice in ADVICE.items() if word in str(error)), "")
        raise ModelError(
            f"cannot load {what} of model '{name}': {first_line} Allowed: {', '.join(BUNDLED)}, a folder with "
            f"config.json, tokenizer.json and model.safetensors, or a hub id.{hint}"
        ) from error


def load_config(name: str, task: Task | None, trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration of a model that can do `task`. Raises ModelError for what cannot be tuned here."""
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise ModelError(f"model '{name}': no such folder. Allowed: {', '.join(BUNDLED)}, a folder, or a hub id.")
    with _readable_errors(name, "the configuration"):
        config = AutoConfig.from_pretrained(model_source(name), trust_remote_code=trust_remote_code)
    check_config(name, config, task, trust_remote_code)
    return config


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether the model reads a text in both directions (BERT, RoBERTa, ...)."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def check_config(name: str, config: PreTrainedConfig, task: Task | None, trust_remote_code: bool) -> None:
    """Raises ModelError for a model that cannot be tuned here, or not on `task`."""
    if config.is_encoder_decoder:
        raise ModelError(
            f"model '{name}' ({config.model_type}) is an encoder-decoder. tunewise tunes decoders (GPT-2, Llama, "
            "Qwen, Mistral, Gemma, ...) and, for classification, encoders (BERT, RoBERTa, ...)."
        )
    is_remote = trust_remote_code and getattr(config, "auto_map", None)
    generates = is_remote or (type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not is_encoder(config))
    if task in ("sft", "lm") and not generates:
        raise ModelError(
            f"model '{name}' ({config.model_type}) does not generate text, so it cannot do task '{task}'. "
            "Take a decoder model, or data with columns text and label (task: classify)."
        )


def load_tokenizer(name: str, config: PreTrainedConfig, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The model's tokenizer; special tokens that only the model's configuration names are filled in."""
    with _readable_errors(name, "the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(model_source(name), trust_remote_code=trust_remote_code)
    # where the files are missing, transformers makes up a tokenizer of special tokens alone
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ModelError(f"model '{name}' has no tokenizer. Put its tokenizer.json into the folder.")
    for role in ("bos", "eos"):
        token_id = getattr(config, f"{role}_token_id", None)
        if getattr(tokenizer, f"{role}_token") is None and isinstance(token_id, int) and token_id < len(tokenizer):
            setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(token_id))
    return tokenizer


def context_length(config: PreTrainedConfig) -> int:
    """Tokens the model can read at once; a large number where the configuration sets no bound."""
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 1_000_000
    # RoBERTa's positions start behind the padding index, so two of its embeddings are never used
    return int(length) - 2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else int(length)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills batches; masked from attention, so any id does where the tokenizer has none."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def load_base(
    name: str, task: Task, labels: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool
) -> Base:
    """The base in fp32 and eval mode. New weights are drawn from torch's generator: seed it before."""
    options: dict[str, Any] = {}
    auto = AutoModelForCausalLM
    if task == "classify":
        auto = AutoModelForSequenceClassification
        options = {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            "ignore_mismatched_sizes": True,  # a head for other labels is replaced by a new one
        }
    with _readable_errors(name, "the weights"), quiet_transformers():
        model, info = auto.from_pretrained(
            model_source(name),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **options,
        )
    mismatched = [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
    new = tuple(sorted({*info["missing_keys"], *mismatched}))
    if task == "classify":
        model.config.pad_token_id = padding_id(tokenizer)
    elif new:
        raise ModelError(
            f"the weights of model '{name}' lack {len(new)} tensors, such as {new[0]}. Complete the folder."
        )
    elif model.get_output_embeddings() is None:
        raise ModelError(
            f"model '{name}' does not name its output embeddings (get_output_embeddings), so it cannot be used."
        )
    layers = [parameter.rpartition(".")[0] for parameter in new] + list(_label_layers(model, len(labels), task))
    return Base(model.eval(), tuple(sorted({_whole_head(model, layer) for layer in layers})), new)


def _whole_head(model: PreTrainedModel, layer: str) -> str:
    """The layer itself within the body, else the whole module that holds it: peft trains and saves heads whole, and
    cannot load again what was saved in parts (RoBERTa's `classifier.dense` and `classifier.out_proj`)."""
    return layer if layer.startswith(model.base_model_prefix + ".") else layer.partition(".")[0]


def _label_layers(model: PreTrainedModel, num_labels: int, task: Task) -> Iterator[str]:
    if task != "classify":
        return
    for name, module in model.named_modules():
        outside = not name.startswith(model.base_model_prefix + ".")
        if outside and isinstance(module, LINEAR) and module.weight.shape[0] == num_labels:
            yield name


def load_tuned(base: Base, folder: Path, trust_remote_code: bool = False) -> torch.nn.Module:
    """A tuned model as anybody would load it: a peft adapter onto `base`, or a transformers folder; fp32, eval."""
    with _readable_errors(str(folder), "the tuned weights"), quiet_transformers():
        if (folder / "adapter_config.json").is_file():
            return load_adapter(base.model, folder, "the base").float().eval()
        return (
            type(base.model)
            .from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=trust_remote_code)
            .eval()
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without progress bars and load reports: what matters of them is in Base and in the record."""
    before = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
