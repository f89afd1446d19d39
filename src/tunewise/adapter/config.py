"""peft's adapter_config.json, checked before it has any effect: types, ranges, patterns, unknown options."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewise.adapter.patterns import NamePattern, name_ends
from tunewise.errors import ModelError
from tunewise.spec.methods import HIGHEST_RANK
from tunewise.spec.mistakes import explain_all, shown
from tunewise.storage.files import reraise_as_study_error
from tunewise.text.suggest import near_miss

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_CONFIG_BYTES = 16 * 2**20  # the ranks of every module of a large model take about 1 MB
MAX_PATTERNS = 5_000  # of module names: the largest models have about 2,000 linear modules
# Options that make peft import a module named by the adapter (Megatron's layers).
IMPORTING = ("megatron_config",)
# Keys that older tools wrote and that change no number.
WITHOUT_EFFECT = ("merge_weights",)
# Options that peft matches as regular expressions if they are text, and names that it embeds in its own patterns.
WHOLE_PATTERNS = ("target_modules", "exclude_modules", "feedforward_modules")
NAMES_IN_PATTERNS = ("modules_to_save", "layers_pattern")

Rank = Annotated[int, Field(ge=1, le=HIGHEST_RANK)]
Alpha = Annotated[float, Field(gt=0)]
Names = list[str] | None


class _Checked(BaseModel):
    """Strict types: no text for a number, no true for 1, no NaN. Unknown keys are kept, to be refused by name."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)


class AnyConfig(_Checked):
    """Options of every kind of adapter. None: not given."""

    peft_type: str
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    auto_mapping: dict[str, Any] | None = None
    revision: str | None = None
    inference_mode: bool | None = None
    modules_to_save: Names = None


class LoraOptions(AnyConfig):
    """Every option of a LoRA configuration that tunewise knows, with peft's defaults."""

    peft_version: str | None = None
    r: Rank = 8
    target_modules: Names | str = None
    exclude_modules: Names | str = None
    lora_alpha: Alpha = 8.0
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    init_lora_weights: bool | str | None = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: Names | str = None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    megatron_core: str | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    ensure_weight_tying: bool | None = None
    # settings of the initialization or the machine: they do not change a trained adapter
    loftq_config: dict[str, Any] | None = None
    eva_config: Any = None
    corda_config: Any = None
    lora_ga_config: Any = None
    runtime_config: Any = None
    qalora_group_size: int | None = None
    # with these the update is not B A on one weight: see adapter_file.OTHER_UPDATES
    megatron_config: Any = None
    use_dora: bool | None = None
    lora_bias: bool | None = None
    use_qalora: bool | None = None
    use_bdlora: Any = None
    layer_replication: Any = None
    alora_invocation_tokens: list[int] | None = None
    target_parameters: Names = None
    arrow_config: Any = None
    kasa_config: Any = None
    velora_config: Any = None
    monteclora_config: Any = None


def require_safe(folder: Path) -> dict[str, Any]:
    """Configuration of the adapter in `folder`.

    Raises ModelError if there is none, for pickled weights, for invalid values, and for an adapter that makes peft
    import a module of its choice.
    """
    _require_folder(folder)
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} is not a loadable adapter: {_what_instead(folder)}")
    config = read_config(folder)
    if named := [option for option in IMPORTING if config.get(option)]:
        raise ModelError(
            f"{folder}: {CONFIG} sets {named[0]}, which makes peft import a module that it names. Remove it."
        )
    return config


def _require_folder(folder: Path) -> None:
    if folder.is_file():
        kind = "a pickle, which can run code" if folder.suffix in PICKLES else "a file"
        advice = _conversion(folder.name) if folder.suffix in PICKLES else ""
        raise ModelError(
            f"{folder} is not an adapter: it is {kind}, but must be a folder with {CONFIG} and {WEIGHTS}.{advice}"
        )
    if not (folder / CONFIG).is_file():
        pickled = _pickles(folder)
        found = f", but it has {pickled[0]}, a pickle, which can run code.{_conversion(pickled[0])}" if pickled else "."
        raise ModelError(f"{folder} is not an adapter folder: it has no {CONFIG}{found}")


def _pickles(folder: Path) -> list[str]:
    return [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLES and path.is_file()]


def _what_instead(folder: Path) -> str:
    if (folder / "adapters.safetensors").is_file():
        return (
            "adapters.safetensors is in the format of mlx-lm. Merge it with mlx_lm.fuse and use the merged model, "
            f"or convert it to peft's {WEIGHTS}."
        )
    if pickled := _pickles(folder):
        return f"it has only {pickled[0]}, a pickle, which can run code, and no {WEIGHTS}.{_conversion(pickled[0])}"
    return f"it has no weights and no {WEIGHTS}. Save it again with peft: model.save_pretrained(folder)."


def _conversion(name: str) -> str:
    """Instructions to convert a pickle without running its code; one not written by peft needs its own tool."""
    if name != "adapter_model.bin":
        return (
            " If peft wrote it, rename it to adapter_model.bin and run this again to see how to "
            "convert it. A checkpoint of "
            "loralib or another tool needs that tool: load it there, copy its factors into a peft model, "
            "and call save_pretrained(folder)."
        )
    return (
        ' Convert it in its folder without running its code: python -c "import torch; from safetensors.torch import '
        f"save_file; save_file(torch.load('{name}', weights_only=True), '{WEIGHTS}')\". Or load it on a "
        "machine where you trust it and call save_pretrained(folder)."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Checked content of adapter_config.json. Raises ModelError that names key, value and allowed values."""
    place = folder / CONFIG
    with reraise_as_study_error(place, "read"):
        size = place.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise ModelError(
                f"{place} has {size:,} bytes; at most {MAX_CONFIG_BYTES:,} are read. Is it the right file?"
            )
        stored = place.read_bytes()
    try:
        config = json.loads(stored.decode("utf-8"), parse_constant=_refuse_constant)
        json.dumps(config, ensure_ascii=False).encode()  # fails for half of a character, which no text may contain
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder} is damaged: {CONFIG} is not JSON: {error}. Download or save it again.") from error
    if not isinstance(config, dict) or config.get("peft_type") is None:
        raise ModelError(
            f"{folder}: {CONFIG} has no peft_type, so it is not a peft adapter. Save the adapter with peft."
        )
    model = LoraOptions if config["peft_type"] == "LORA" else AnyConfig
    try:
        model.model_validate(config)
    except ValidationError as error:
        lines = explain_all(_one_per_key(error.errors(include_url=False)), str(place))
        raise ModelError(f"{lines}\nThe adapter is damaged: correct {CONFIG}, or save the adapter again.") from error
    if endless := [name for name, number in _numbers(config) if not math.isfinite(number)]:
        raise ModelError(f"{place}: '{endless[0]}' must be a finite number. Correct it, or save the adapter again.")
    return config


def _one_per_key(errors: Sequence[Any]) -> list[Any]:
    """First error of each key, without the types of the union that pydantic tried in turn."""
    first: dict[Any, Any] = {}
    for item in errors:
        first.setdefault(item["loc"][0], item)
    return [{**item, "loc": tuple(part for part in item["loc"] if not _is_type(part))} for item in first.values()]


def _is_type(part: str | int) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield name, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _numbers(inner, f"{name}.{key}".lstrip("."))


def require_known_options(place: str, config: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ModelError for an option that is set and not `known`: it would be ignored silently."""
    names = [*known, *WITHOUT_EFFECT]
    unknown = [key for key, value in config.items() if key not in names and not _is_off(value)]
    if not unknown:
        return
    key = unknown[0]
    more = f" ({len(unknown)} such options: {', '.join(unknown)[:200]})" if len(unknown) > 1 else ""
    raise ModelError(
        f"{place} sets '{key}' to {shown(config[key])}, an unknown option, so the adapter could "
        f"compute something else.{more}{near_miss(key, names)} Use a newer peft, or remove the option from {CONFIG} if "
        "it changes nothing."
    )


def _is_off(value: Any) -> bool:
    return not value or value == "none"


def name_patterns(place: str, config: Mapping[str, Any], longest: int) -> list[NamePattern]:
    """Every pattern by which peft matches module names, known to finish on names of `longest` characters.

    Raises ModelError for a pattern that might not.
    """
    found = []
    for option, value in config.items():
        if option in WHOLE_PATTERNS and isinstance(value, str):
            found.append((option, value))
        elif option in NAMES_IN_PATTERNS and isinstance(value, str | list):
            names = [value] if isinstance(value, str) else value
            found += [(option, name_ends(name)) for name in names if isinstance(name, str)]
        elif option.endswith("_pattern") and isinstance(value, dict):
            found += [(option, name_ends(key)) for key in value]
    if len(found) > MAX_PATTERNS:
        raise ModelError(f"{place} has {len(found):,} patterns of module names; at most {MAX_PATTERNS:,} are read.")
    return [NamePattern(pattern, f"{place}: {option}", longest) for option, pattern in found]
