"""Models refused because of their configuration: impossible sizes, or quantized weights."""

from typing import Any

from transformers import PreTrainedConfig

from tunewise.errors import ModelError
from tunewise.lab.models.folder import rounding_file

# The largest published models have some 130 layers, 260,000 tokens and a width of 20,000. The limits are well above, so
# that a mistaken or hostile file ends in a message and not in hours of building.
MOST = {"num_hidden_layers": 1_000, "vocab_size": 10_000_000, "hidden_size": 1_000_000}
UNLIMITED = -1  # positions of a model without a limit, such as XLNet
# quant_method of a configuration -> its common name.
METHODS = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "compressed-tensors": "compressed-tensors",
    "mxfp4": "MXFP4",
    "torchao": "torchao",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "eetq": "EETQ",
}
BITS = {"load_in_4bit": 4, "load_in_8bit": 8}


def require_possible(name: str, config: PreTrainedConfig) -> None:
    """Raise ModelError for sizes that no model has."""
    text = config.get_text_config()
    for key, most in MOST.items():
        value = getattr(text, key, None)
        if value is None or isinstance(value, list):  # some families have a number for every layer
            continue
        if not isinstance(value, int) or not 1 <= value <= most:
            raise ModelError(
                f"config.json of model '{name}' sets {key} to {str(value)[:60]}, but it must be a "
                f"whole number from 1 to {most:,}. Download the model again."
            )
    positions = getattr(text, "max_position_embeddings", None)
    if isinstance(positions, int) and positions < UNLIMITED:
        raise ModelError(
            f"config.json of model '{name}' sets max_position_embeddings to {positions}, but no model reads fewer than "
            "0 tokens. Download the model again."
        )


def require_unrounded(name: str, source: str, config: PreTrainedConfig) -> None:
    """Raise ModelError for a base whose weights are stored quantized, with advice."""
    for holder in (config, config.get_text_config()):
        for key in ("quantization_config", "compression_config"):
            if (found := getattr(holder, key, None)) is not None:
                raise _rounded(name, _method(found), f"{key} of its config.json")
    if (file := rounding_file(source)) is not None:
        raise _rounded(name, "a tool that left this file", file)


def _method(found: Any) -> str:
    keys = found if isinstance(found, dict) else found.to_dict() if hasattr(found, "to_dict") else {}
    method = keys.get("quant_method", "an unnamed method")
    method = str(getattr(method, "value", method))
    bits = keys.get("bits") or next((bits for key, bits in BITS.items() if keys.get(key)), None)
    return METHODS.get(method, method[:40]) + (f" in {bits} bits" if isinstance(bits, int) else "")


def _rounded(name: str, method: str, where: str) -> ModelError:
    return ModelError(
        f"the weights of model '{name}' are quantized by {method} (see {where}). Quantized weights cannot be "
        "fully fine-tuned, so the arms could not be compared. Name the original model. If you have only "
        "these, dequantize them with that library installed: "
        "`AutoModelForCausalLM.from_pretrained(NAME).dequantize().save_pretrained(FOLDER)`."
    )
