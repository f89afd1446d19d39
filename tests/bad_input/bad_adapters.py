"""Adapters that are not loaded, as they come from strangers."""

import json
import struct

from bad_input_case import Case

PREFIX = "base_model.model.transformer.h.0.attn.c_attn"
GOOD = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["c_attn"], "task_type": "CAUSAL_LM"}


def weights(*names: str) -> bytes:
    """A safetensors file of these tensors, each of one number."""
    header = {
        name: {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<f", 1.0) * len(names)


FACTORS = weights(f"{PREFIX}.lora_A.weight", f"{PREFIX}.lora_B.weight")


def adapter(
    what: str, config: dict[str, object], *words: str, stored: bytes = FACTORS, command: str = "inspect"
) -> Case:
    """An adapter in the folder a that is refused."""
    content = json.dumps({**GOOD, **config}).encode()
    files = {"a/adapter_config.json": content, "a/adapter_model.safetensors": stored}
    return Case(what, ("adapter", command, "a"), words, files)


ADAPTERS = [
    adapter("a scale given as text", {"lora_alpha": "16"}, "lora_alpha", "must be a number", "'16'"),
    adapter("a scale that is null", {"lora_alpha": None}, "lora_alpha", "must be a number"),
    adapter("a scale below 0", {"lora_alpha": -8}, "lora_alpha", "greater than 0", "-8"),
    adapter("a rank of 0", {"r": 0}, "'r'", "greater than or equal to 1"),
    adapter("another rank than its factors", {"r": 8}, "factors of rank 1", "gives 8"),
    adapter("a pattern that hangs", {"alpha_pattern": {"(a+)+$x": 2}}, "alpha_pattern", "could take hours"),
    adapter("targets that hang", {"target_modules": "(.*a)*x"}, "target_modules", "could take hours"),
    adapter("an invalid pattern", {"rank_pattern": {"(": 2}}, "rank_pattern", "not a valid regular expression"),
    adapter("an unknown option", {"lora_sparsity": 0.5}, "'lora_sparsity'", "unknown option", "newer peft"),
    adapter("an unknown kind", {"peft_type": "SPARSE9"}, "peft_type", "'SPARSE9'", "Known:", command="verify"),
    adapter("experts in one tensor", {"target_parameters": ["mlp.experts"]}, "target_parameters", "merge", "verify"),
    adapter("a base that is a list", {"base_model_name_or_path": ["x"]}, "base_model_name_or_path", "must be text"),
    adapter(
        "names of a compiled model",
        {},
        "'_orig_mod'",
        "Remove '_orig_mod.'",
        stored=weights(f"_orig_mod.{PREFIX}.lora_A.weight"),
    ),
    adapter("names without peft's prefix", {}, "does not begin with", stored=weights("h.0.attn.c_attn.lora_A.weight")),
    adapter("factors of modules outside its targets", {"target_modules": ["c_fc"]}, "c_attn", "target_modules"),
    adapter(
        "one factor without the other", {}, "a pair of matrices was expected", stored=weights(f"{PREFIX}.lora_A.weight")
    ),
    Case(
        "a pickle",
        ("adapter", "inspect", "a"),
        ("adapter_model.bin", "a pickle", "weights_only=True"),
        {"a/adapter_config.json": json.dumps(GOOD).encode(), "a/adapter_model.bin": b"x"},
    ),
    Case(
        "a checkpoint of loralib",
        ("adapter", "verify", "a/lora.pt"),
        ("lora.pt", "a pickle", "loralib"),
        {"a/lora.pt": b"x"},
    ),
    Case(
        "an adapter of mlx-lm",
        ("adapter", "inspect", "a"),
        ("mlx-lm", "mlx_lm.fuse"),
        {"a/adapter_config.json": b'{"fine_tune_type": "lora"}', "a/adapters.safetensors": b"x"},
    ),
]

TOPICS: dict[str, list[Case]] = {"Adapters": ADAPTERS}
