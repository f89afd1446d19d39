"""Configuration of a model for a plan; well-known names need no network."""

from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from tunewise.assets import table
from tunewise.lab.models.limits import require_unrounded
from tunewise.lab.models.load import BUNDLED, check_config, load_config, model_source
from tunewise.spec import Task

FACTS_ABOUT_THE_TABLE = ("parameters", "same_as")


@cache
def known_configurations() -> dict[str, dict[str, Any]]:
    """Name on the hub -> its config.json, and `parameters`, the size of the published checkpoint."""
    named: dict[str, dict[str, Any]] = table("configurations.yaml")
    return named | {other: facts for facts in named.values() for other in facts.get("same_as", ())}


def configuration(name: str, task: Task | None, trust_remote_code: bool) -> PreTrainedConfig:
    """Configuration of a bundled model, a folder, a known name, or a hub id. Raises ModelError as `load_config`."""
    facts = known_configurations().get(name)
    if facts is None or name in BUNDLED or Path(name).is_dir():
        config = load_config(name, task, trust_remote_code)
        require_unrounded(name, model_source(name), config)
        return config
    config = AutoConfig.for_model(**{key: value for key, value in facts.items() if key not in FACTS_ABOUT_THE_TABLE})
    check_config(name, config, task, trust_remote_code)
    return config
