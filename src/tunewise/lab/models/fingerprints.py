"""SHA-256 fingerprints of models, tokenizers and versions, which decide whether a record may be reused."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from tunewise.adapter.config import CONFIG, require_safe
from tunewise.errors import ModelError
from tunewise.lab.models.folder import configuration_files, weight_files
from tunewise.lab.models.load import model_source
from tunewise.lab.private import commit_of
from tunewise.storage.disk import write_atomically
from tunewise.storage.files import file_hash, is_there, read_text
from tunewise.storage.seal import sealed, unsealed

VERSIONED = ("torch", "transformers", "peft")


def minor_versions() -> dict[str, str]:
    """Minor versions of the libraries that determine numbers: {'torch': '2.13', ...}."""
    return {name: ".".join(version(name).split(".")[:2]) for name in VERSIONED}


def text_fingerprint(*parts: str) -> str:
    """Fingerprint of a sequence of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint of everything that turns text into ids: the tokenizer's JSON, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = json.dumps({key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())})
    return text_fingerprint(content, special, str(tokenizer.chat_template))


class FileHashes:
    """Hashes of large files, cached by path, size and modification time in one small JSON file."""

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        # a damaged cache is rebuilt
        self.known: dict[str, str] = (unsealed(read_text(memory)) if is_there(memory) else None) or {}

    def of(self, path: Path) -> str:
        """SHA-256 of one file."""
        status = path.stat()
        key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        if key not in self.known:
            self.known[key] = file_hash(path)
            write_atomically(self.memory, sealed(self.known))
        return self.known[key]

    def of_model(self, name: str, config: PreTrainedConfig) -> str:
        """Fingerprint of a model's configuration and weights; a model from the hub is identified by its commit."""
        folder = Path(model_source(name))
        if folder.is_dir():
            return text_fingerprint(*self._files(folder, name))
        commit = commit_of(config)
        if not commit:
            raise ModelError(
                f"the hub did not report the commit of '{name}'. Download the model into a folder and use that."
            )
        return text_fingerprint(name, str(commit))

    def of_weights(self, folder: Path) -> str:
        """Fingerprint of an adapter's or a model's folder. Raises ModelError if there are no safetensors."""
        if not folder.is_dir():
            raise ModelError(f"no such folder: {folder}. An 'existing' arm needs the folder of an adapter or a model.")
        if (folder / CONFIG).is_file():
            require_safe(folder)
        return text_fingerprint(*self._files(folder, str(folder)))

    def of_tensors(self, folder: Path) -> tuple[str, ...]:
        """SHA-256 of each file of weights alone: equal for copies, whatever their configuration says."""
        return tuple(self.of(path) for path in weight_files(folder, str(folder)))

    def _files(self, folder: Path, name: str) -> list[str]:
        read = [*configuration_files(folder), *weight_files(folder, name)]
        return [f"{path.relative_to(folder)} {self.of(path)}" for path in read]
