"""An adapter from a folder and its base, both in fp32, or on the quantized base that it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_bitsandbytes_available

from tunewise.adapter.config import require_safe
from tunewise.adapter.records import Rounding, Stored
from tunewise.adapter.refusals import PREFIX
from tunewise.errors import ModelError
from tunewise.lab.evaluate.generate import stops_of_base
from tunewise.lab.models.context import context_length
from tunewise.lab.models.library_errors import quiet_transformers
from tunewise.lab.models.load import load_base, load_config, load_tokenizer, model_source
from tunewise.lab.models.peft_loading import load_adapter, require_complete, require_known_kind, tensor_shapes
from tunewise.lab.plan.meta_model import blank_base
from tunewise.spec import TASKS, Task

TASKS_OF_TYPES: Mapping[str, Task] = {"CAUSAL_LM": "lm", "SEQ_CLS": "classify"}
MANY_CLASSES = 99_991  # a prime that no other size of a model equals
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk, and the name of its base."""

    path: Path
    base: str

    @classmethod
    def open(cls, path: Path, base: str | None) -> "AdapterFolder":
        """The adapter in `path` on `base`, or on the base that it names. Raises ModelError if there is none."""
        config = require_safe(path)
        require_known_kind(path, config)
        named = base or config.get("base_model_name_or_path")
        if not named:
            raise ModelError(f"{path} does not name its base. Give it with --base.")
        return cls(path, str(named))

    @cached_property
    def config(self) -> dict[str, Any]:
        """Checked configuration of the adapter."""
        return require_safe(self.path)

    @cached_property
    def base_config(self) -> PreTrainedConfig:
        """Configuration of the base, checked. Raises ModelError for a base that cannot do the task."""
        return load_config(self.base, self.task, False)

    @cached_property
    def stops(self) -> tuple[int, ...]:
        """Tokens at which the base ends a text."""
        return stops_of_base(self.base, self.base_config, self.tokenizer)

    @cached_property
    def task(self) -> Task:
        """Task of the adapter: plain text or classes. Raises ModelError for any other."""
        named = str(self.config.get("task_type"))
        if named not in TASKS_OF_TYPES:
            raise ModelError(
                f"{self.path} is for the task {named}. "
                f"Allowed: {', '.join(TASKS_OF_TYPES)} (task_type in adapter_config.json)."
            )
        return TASKS_OF_TYPES[named]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer saved with the adapter, else the base's."""
        name = str(self.path) if self.has_own_tokenizer else self.base
        return load_tokenizer(name, self.base_config, False)

    @property
    def has_own_tokenizer(self) -> bool:
        """True if a tokenizer is saved with the adapter."""
        return any((self.path / name).is_file() for name in TOKENIZER_FILES)

    @property
    def stored(self) -> Stored:
        """Dtype in which the base's weights are stored; fp32 if it is missing or unknown."""
        dtype = str(self.base_config.dtype).removeprefix("torch.")
        names: dict[str, Stored] = {"bfloat16": "bf16", "float16": "fp16"}
        return names.get(dtype, "fp32")

    @property
    def context_length(self) -> int:
        """Most tokens that the base can read."""
        return context_length(self.base_config)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Placeholder names of its classes, which no adapter stores; () for a language model."""
        if not TASKS[self.task].has_classes:
            return ()
        # the base's own architecture shows which weight has one row per class
        config = self.base_config
        blank = blank_base(config, self.task, MANY_CLASSES, None).model
        heads = [name for name, weight in blank.named_parameters() if weight.shape[:1] == (MANY_CLASSES,)]
        rows = {self.shapes[name][0] for name in heads if name in self.shapes}
        if not rows and any(name.removesuffix(".weight") + ".lora_B.weight" in self.shapes for name in heads):
            rows = {config.num_labels}  # the head of the base is adapted, not replaced
        if len(rows) != 1:
            raise ModelError(
                f"{self.path} is for classification, but contains no head ({', '.join(heads)}). Train "
                "it with modules_to_save."
            )
        return tuple(f"LABEL_{i}" for i in range(rows.pop()))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the adapter, by its name in the base."""
        return {name.removeprefix(PREFIX): shape for name, shape in tensor_shapes(self.path).items()}

    def load_base(self, rounding: Rounding) -> PreTrainedModel:
        """A fresh base in fp32. Unless it is 'whole', bitsandbytes quantized and dequantized its linear weights."""
        config = self.base_config
        stored = getattr(config, "quantization_config", None)
        if rounding == "whole" and stored is None:
            torch.manual_seed(0)  # for a new head, which the adapter's head replaces
            base = load_base(self.base, self.task, self.labels, self.tokenizer, False)
            require_complete(self.path, self.base, base.new_parameters)
            return base.model
        if rounding == "whole":
            raise ModelError(
                f"the weights of '{self.base}' are stored quantized. Use --trained-on nf4, or name "
                "the unquantized base."
            )
        return self._load_rounded(rounding, is_stored=stored is not None)

    def _load_rounded(self, rounding: Rounding, is_stored: bool) -> PreTrainedModel:
        if not is_bitsandbytes_available():
            raise ModelError("a quantized base needs bitsandbytes: pip install 'tunewise[quant]'.")
        options: dict[str, Any] = {"num_labels": len(self.labels)} if TASKS[self.task].has_classes else {}
        if not is_stored:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=rounding == "nf4-double",
                bnb_4bit_compute_dtype=torch.float32,
            )
        auto = AutoModelForSequenceClassification if TASKS[self.task].has_classes else AutoModelForCausalLM
        with quiet_transformers():
            model = auto.from_pretrained(model_source(self.base), dtype=torch.float32, use_safetensors=True, **options)
        # not the 4-bit kernels, which round more than the weights: that of bitsandbytes for AVX-512 also rounds its
        # scales
        return model.dequantize().eval()

    def put_on(self, model: PreTrainedModel) -> PeftModel:
        """The adapter on `model`, in fp32 and eval mode. Raises ModelError if it does not fit."""
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        with quiet_transformers():
            adapted = load_adapter(model, self.path, self.base)
        changed = {id(layer.get_base_layer()) for layer in adapted.modules() if isinstance(layer, BaseTunerLayer)}
        if head is not None and head.weight is embedding.weight and changed & {id(embedding), id(head)}:
            # merging into a tensor that both share would change both
            head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
            model.config.tie_word_embeddings = False
        return adapted.eval()

    def require_mergeable(self) -> None:
        """Raise ModelError for a method that does not change weights."""
        kind = PeftType(self.config["peft_type"])
        tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
        is_prompt = issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PromptLearningConfig)
        if is_prompt or not hasattr(tuner, "merge_and_unload"):
            raise ModelError(
                f"{self.path} is {kind.value}, which does not change the base's weights and so cannot be merged. "
                "Load it with peft instead."
            )
