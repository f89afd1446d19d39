"""`adapter verify` and `merge` of classifiers: every family of encoders, and kinds whose own tensors are small."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model

from lab_fixtures import ENCODERS
from tunewise.commands.adapters import merge, verify
from tunewise.errors import ModelError
from tunewise.lab.adapters.load import AdapterFolder
from tunewise.lab.methods.targets import linear_modules
from tunewise.lab.models.load import Base
from tunewise.spec import DataSpec

KINDS: dict[str, Callable[..., Any]] = {
    "ia3": lambda **common: IA3Config(**common, feedforward_modules=[]),
    "loha": lambda **common: LoHaConfig(**common, r=2),
    "lokr": lambda **common: LoKrConfig(**common, r=2),
    "tokens": lambda **common: LoraConfig(**common, r=2, trainable_token_indices={"word_embeddings": [7, 9]}),
}


@pytest.fixture
def rows(tmp_path: Path) -> DataSpec:
    """Twelve texts of three classes."""
    path = tmp_path / "rows.jsonl"
    texts = [{"text": f"w{5 + i % 40} w{6 + i % 30} w9", "label": "abc"[i % 3]} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    return DataSpec(train=str(path))


@torch.no_grad()
def saved(base: Base, base_folder: Path, config: Any, out: Path) -> Path:
    """An adapter of the classifier that changes what it computes."""
    torch.manual_seed(3)
    model = get_peft_model(base.model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.2 * torch.randn(parameter.shape)
    model.peft_config["default"].base_model_name_or_path = str(base_folder)
    model.save_pretrained(out)
    return out


@pytest.mark.parametrize("family", [*ENCODERS, "gpt2", "llama"])
def test_a_classifier_of_every_family_gets_its_certificate(
    family: str, classifier: Callable[..., Base], model_folder: Callable[[str], Path], rows: DataSpec, tmp_path: Path
) -> None:
    base = classifier(family, seed=0)
    options = {"target_modules": list(linear_modules(base)), "modules_to_save": list(base.head_modules)}
    config = LoraConfig(task_type="SEQ_CLS", r=2, fan_in_fan_out=family == "gpt2", **options)
    folder = saved(base, model_folder(family), config, tmp_path / "adapter")
    certificate = verify(folder, data=rows)
    assert certificate.holds, certificate.checks
    assert all(form.accuracy is not None for form in certificate.forms)
    merged = merge(folder, tmp_path / "merged", data=rows)
    assert merged.forms[0].nll == pytest.approx(certificate.forms[0].nll, abs=1e-5)


def test_a_certificates_classes_are_compared_by_name(
    classifier: Callable[..., Base], model_folder: Callable[[str], Path], rows: DataSpec, tmp_path: Path
) -> None:
    """Names in the reverse order, with the labels exchanged likewise, change nothing of what is scored."""
    base = classifier("bert", seed=0)
    options = {"target_modules": ["query"], "modules_to_save": list(base.head_modules)}
    folder = saved(base, model_folder("bert"), LoraConfig(task_type="SEQ_CLS", r=2, **options), tmp_path / "adapter")
    unnamed = verify(folder, data=rows)
    assert unnamed.note is not None
    assert "does not name its classes. NLL and accuracy assume that they are in this order: a, b, c." in unnamed.note
    assert merge(folder, tmp_path / "merged", data=rows).note == unnamed.note
    before = unnamed.forms[0]
    (folder / "config.json").write_text(json.dumps({"id2label": {0: "c", 1: "b", 2: "a"}}))
    text = Path(rows.train).read_text()
    Path(rows.train).write_text(text.replace('"a"', '"x"').replace('"c"', '"a"').replace('"x"', '"c"'))
    named = verify(folder, data=rows)
    assert named.note is None, "nothing is assumed"
    after = named.forms[0]
    assert (after.nll, after.accuracy) == (before.nll, before.accuracy)


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_tensor_of_the_adapter_is_not_taken_for_the_head(
    kind: str, classifier: Callable[..., Base], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The number of classes was once that of the rows of the smallest matrix that was saved."""
    base = classifier("bert", seed=0)
    common = {"task_type": "SEQ_CLS", "target_modules": ["key", "value"], "modules_to_save": list(base.head_modules)}
    folder = saved(base, model_folder("bert"), KINDS[kind](**common), tmp_path / "adapter")
    assert len(AdapterFolder.open(folder, None).labels) == 3
    assert verify(folder).holds


def test_a_head_that_was_never_saved_is_named(
    classifier: Callable[..., Base], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = classifier("deberta-v2", seed=0)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query_proj"])
    folder = saved(base, model_folder("deberta-v2"), config, tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"pooler.dense.* is neither in .* It was random during training, and is lost"):
        verify(folder)
