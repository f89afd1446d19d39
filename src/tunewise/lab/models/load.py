"""Base models and tokenizers: bundled, from a folder, or from the hub; always fp32, always safetensors."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
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

from tunewise.adapter.config import CONFIG as ADAPTER_CONFIG
from tunewise.assets import ASSETS
from tunewise.errors import ModelError
from tunewise.lab.hub import go_offline_if_unreachable
from tunewise.lab.models.checkpoint_names import Names, require_whole, require_whole_body, unused_parts
from tunewise.lab.models.class_order import LINEAR as LINEAR
from tunewise.lab.models.class_order import (
    class_names,
    label_layers,
    names_beside,
    order_by_name,
    put_in_order,
    require_order,
)
from tunewise.lab.models.folder import require_plain_base, weight_files
from tunewise.lab.models.library_errors import quiet_transformers, reraised
from tunewise.lab.models.limits import require_possible, require_unrounded
from tunewise.lab.models.peft_loading import load_adapter
from tunewise.lab.private import draw_weights, mark_as_not_drawn
from tunewise.lab.weights.narrow import is_stored_in_bf16, keep_narrow, widen
from tunewise.spec import TASKS, Task

BUNDLED = {"tiny": ASSETS / "tiny"}
# A word in a loading library's error -> advice.
ADVICE = {
    "custom code": " Its code is not run unless you set `trust_remote_code: true`; read the code first.",
    "safetensors": " Convert pickled weights with `model.save_pretrained(folder)`.",
}
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Base:
    """A base model in fp32, with facts that the arms need."""

    model: PreTrainedModel
    head_modules: tuple[str, ...]  # modules trained in every arm: not from the checkpoint, or the label layer
    new_parameters: tuple[str, ...]  # parameters that the checkpoint did not provide
    notes: tuple[str, ...] = ()  # remarks on the checkpoint for the report


def inner_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside a peft adapter, or the model itself."""
    inner: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner


def model_source(name: str) -> str:
    """The name passed to transformers: the folder of a bundled model, else the name itself."""
    source = str(BUNDLED.get(name, name))
    if not Path(source).exists():
        go_offline_if_unreachable()
    return source


def _readable_errors(name: str, what: str) -> AbstractContextManager[None]:
    """Turn errors of the loading libraries into one ModelError that names the model and lists allowed values."""

    def advised(said: str) -> str:
        hint = next((advice for word, advice in ADVICE.items() if word in said), "")
        return (
            f"{said} Allowed: {', '.join(BUNDLED)}, a folder with config.json, tokenizer.json and model.safetensors, "
            f"or a hub id.{hint}"
        )

    return reraised(ModelError, f"cannot load {what} of model '{name}'", advised)


def load_config(name: str, task: Task | None, trust_remote_code: bool) -> PreTrainedConfig:
    """Configuration of a model that can do `task`. Raises ModelError for one that cannot be tuned here."""
    if not Path(model_source(name)).is_dir() and not HUB_ID.fullmatch(name):
        raise ModelError(f"model '{name}': no such folder. Allowed: {', '.join(BUNDLED)}, a folder, or a hub id.")
    with _readable_errors(name, "the configuration"):
        require_plain_base(name, model_source(name))
        config = AutoConfig.from_pretrained(model_source(name), trust_remote_code=trust_remote_code)
        check_config(name, config, task, trust_remote_code)
    return config


def is_encoder(config: PreTrainedConfig) -> bool:
    """True if the model reads a text in both directions (BERT, RoBERTa, ...)."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def check_config(name: str, config: PreTrainedConfig, task: Task | None, trust_remote_code: bool) -> None:
    """Raise ModelError for a model that cannot be tuned here, or not on `task`."""
    require_possible(name, config)
    if config.is_encoder_decoder:
        raise ModelError(
            f"model '{name}' ({config.model_type}) is an encoder-decoder, which is not supported. Supported "
            "are decoders (GPT-2, Llama, "
            "Qwen, Mistral, Gemma, ...) and, for classification, encoders (BERT, RoBERTa, ...)."
        )
    is_remote = trust_remote_code and getattr(config, "auto_map", None)
    generates = is_remote or (type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not is_encoder(config))
    if task in ("sft", "lm") and not generates:
        raise ModelError(
            f"model '{name}' ({config.model_type}) does not generate text, so it cannot do task '{task}'. "
            "Use a decoder model, or data with columns text and label (task: classify)."
        )


def load_tokenizer(name: str, config: PreTrainedConfig, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Tokenizer of the model; special tokens that only the model's configuration names are added."""
    with _readable_errors(name, "the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(model_source(name), trust_remote_code=trust_remote_code)
    # without the files transformers makes up a tokenizer of special tokens only
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ModelError(f"model '{name}' has no tokenizer. Put its tokenizer.json into the folder.")
    for role in ("bos", "eos"):
        token_id = getattr(config, f"{role}_token_id", None)
        if getattr(tokenizer, f"{role}_token") is None and isinstance(token_id, int) and token_id < len(tokenizer):
            setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(token_id))
    return tokenizer


def padding_id(tokenizer: PreTrainedTokenizerBase, num_embeddings: int | None = None) -> int:
    """Id that fills batches.

    Padding is masked from attention, so any id works if the tokenizer has none with an embedding in the model (None:
    any number of embeddings).
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None and (num_embeddings is None or token_id < num_embeddings):
            return int(token_id)
    return 0


def load_base(  # noqa: PLR0913 - a base is loaded for many purposes, and only here
    name: str,
    task: Task,
    labels: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    trust_remote_code: bool,
    narrow: bool = False,
) -> Base:
    """The base in fp32 and eval mode. New weights come from torch's generator: seed it first.

    `narrow`: the linear weights of a language model whose checkpoint is bf16 stay so, and are frozen; its function is
    the same (weights/narrow.py).
    """
    config = load_config(name, task, trust_remote_code)
    require_unrounded(name, model_source(name), config)
    auto = AutoModelForCausalLM
    options: dict[str, Any] = {}
    if TASKS[task].has_classes:
        auto = AutoModelForSequenceClassification
        options = {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    if narrow and not TASKS[task].has_classes and is_stored_in_bf16(model_source(name), name):
        options = {"dtype": torch.bfloat16}
    model, names = _load_whole(auto, name, model_source(name), trust_remote_code, options)
    if options.get("dtype"):
        keep_narrow(model, auto, trust_remote_code)
    if not TASKS[task].has_classes:
        require_whole(name, names, model)
        if model.get_output_embeddings() is None:
            raise ModelError(
                f"model '{name}' does not name its output embeddings (get_output_embeddings), so it cannot be "
                "used. Choose another model."
            )
        return Base(model.eval(), (), (), unused_parts(name, names))
    require_whole_body(name, names, model)
    num_embeddings = model.get_input_embeddings().weight.shape[0]
    model.config.pad_token_id = padding_id(tokenizer, num_embeddings)
    new, notes = _head_by_name(name, model, names.new, class_names(config.id2label), labels)
    layers = [key.rpartition(".")[0] for key in new]
    layers += [layer for layer, _ in label_layers(model, model.base_model_prefix, len(labels))]
    return Base(model.eval(), tuple(sorted({_whole_head(model, layer) for layer in layers})), new, notes)


def _load_whole(
    kind: Any, name: str, source: str, trust_remote_code: bool, options: dict[str, Any]
) -> tuple[PreTrainedModel, Names]:
    """A model in fp32 as `kind` loads it, and the result of the load; every file read was checked."""
    with _readable_errors(name, "the weights"), quiet_transformers():
        if Path(source).is_dir():
            weight_files(Path(source), name)
        model, info = kind.from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # shapes are compared later: a head for other labels is replaced by a new one
            **{"dtype": torch.float32, **options},
        )
        return model, Names.of(info)


def _head_by_name(
    name: str, model: PreTrainedModel, new: tuple[str, ...], own: tuple[str, ...], labels: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """New parameters and remarks, after reordering the rows of a trained head to the order of `labels`.

    A head for classes of other names is initialized anew, as is one for another number of classes.
    """
    layers = list(label_layers(model, model.base_model_prefix, len(labels)))
    if not layers or any(key.startswith(f"{layer}.") for key in new for layer, _ in layers):
        return new, ()
    order = order_by_name(own, labels)
    if order is not None:
        put_in_order(model, model.base_model_prefix, order)
        return new, ()
    layer_name, layer = layers[-1]
    drawn = {f"{layer_name}.{key}" for key, _ in layer.named_parameters(recurse=False)}
    for parameter in layer.parameters(recurse=False):
        mark_as_not_drawn(parameter)
    draw_weights(model, layer)
    note = (
        f"The head of model '{name}' was trained for classes with other names "
        f"({', '.join(own)[:200]}), so every arm trains "
        "a new one. If they are the same classes, write the names of the data into id2label of config.json."
    )
    return tuple(sorted({*new, *drawn})), (note,)


def _whole_head(model: PreTrainedModel, layer: str) -> str:
    """The layer itself if it is in the body, else the whole module that contains it.

    peft trains and saves heads as a whole, and cannot reload one saved in parts (RoBERTa's `classifier.dense` and
    `classifier.out_proj`).
    """
    return layer if layer.startswith(model.base_model_prefix + ".") else layer.partition(".")[0]


def load_tuned(base: Base, folder: Path, trust_remote_code: bool = False) -> torch.nn.Module:
    """A tuned model as users load it: a peft adapter on `base`, or a transformers folder; fp32, eval mode.

    The rows of a classification head are reordered to the base's classes, by name. Raises ModelError if these differ,
    and for missing weights.
    """
    if not folder.is_dir():
        raise ModelError(f"no such folder: {folder}. It must contain an adapter or a whole model.")
    model = _load_adapter(base, folder) if (folder / ADAPTER_CONFIG).is_file() else None
    if model is None:
        model, names = _load_whole(type(base.model), str(folder), str(folder), trust_remote_code, {})
        require_whole(str(folder), names, model)
    if is_classifier(base.model):
        _classes_by_name(base, model, folder)
    return model.eval()


def _load_adapter(base: Base, folder: Path) -> PeftModel:
    with _readable_errors(str(folder), "the tuned weights"), quiet_transformers():
        adapted = load_adapter(base.model, folder, base.model.config.name_or_path)
        widen(adapted)
        return adapted


def _classes_by_name(base: Base, model: torch.nn.Module, folder: Path) -> None:
    labels = class_names(base.model.config.id2label)
    own = names_beside(folder) if isinstance(model, PeftModel) else class_names(model.config.id2label)
    if own is None:
        return  # most adapters do not name their classes; `check` reports this
    put_in_order(model, base.model.base_model_prefix, require_order(str(folder), own, labels))
    inner = inner_model(model)
    inner.config.id2label = dict(enumerate(labels))
    inner.config.label2id = {label: number for number, label in enumerate(labels)}


def is_classifier(model: PreTrainedModel) -> bool:
    """True if it has a classification head."""
    return type(model).__name__.endswith("ForSequenceClassification")
