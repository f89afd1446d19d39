"""Law 44: classes are compared by name, never by the place where a checkpoint keeps them."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tunewise.errors import ModelError
from tunewise.lab.models.class_order import order_by_name
from tunewise.lab.models.load import Base, load_base, load_tuned

LABELS = ("negative", "neutral", "positive")
ORDERS = [order for order in permutations(LABELS) if order != LABELS]
IDS = torch.tensor([[4, 5, 6, 7, 2]])


def trained_elsewhere(base_folder: Path, names: tuple[str, ...], to: Path) -> Path:
    """A classifier of plain transformers whose classes stand in this order."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(
        base_folder, num_labels=len(names), id2label=dict(enumerate(names)), pad_token_id=0
    )
    model.save_pretrained(to)
    return to


@torch.no_grad()
def by_name(model: torch.nn.Module, names: tuple[str, ...]) -> dict[str, float]:
    logits = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[0]
    return {name: round(float(value), 4) for name, value in zip(names, logits, strict=True)}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "llama"])
@pytest.mark.parametrize("names", [ORDERS[0], ORDERS[-2]])
def test_law_44_a_classifier_trained_elsewhere_predicts_the_same_names_as_base_and_as_arm(
    family: str,
    names: tuple[str, ...],
    classifier: Callable[..., Base],
    model_folder: Callable[[str], Path],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    folder = trained_elsewhere(model_folder(family), names, tmp_path / "theirs")
    plain = by_name(AutoModelForSequenceClassification.from_pretrained(folder).eval(), names)
    assert len(set(plain.values())) == len(LABELS)
    arm = load_tuned(classifier(family), folder)
    assert by_name(arm, LABELS) == plain
    base = load_base(str(folder), "classify", LABELS, tokenizer, False)
    assert base.new_parameters == ()
    assert by_name(base.model, LABELS) == plain
    assert base.model.config.id2label == dict(enumerate(LABELS))


def test_law_44_other_names_are_refused_as_an_arm_and_start_a_new_head_as_a_base(
    classifier: Callable[..., Base],
    model_folder: Callable[[str], Path],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    names = ("anger", "joy", "sadness")
    folder = trained_elsewhere(model_folder("bert"), names, tmp_path / "theirs")
    with pytest.raises(ModelError, match=r"predicts the classes 'anger', 'joy', 'sadness', but the data has"):
        load_tuned(classifier("bert"), folder)
    torch.manual_seed(0)
    base = load_base(str(folder), "classify", LABELS, tokenizer, False)
    assert set(base.new_parameters) == {"classifier.weight", "classifier.bias"}
    stored = AutoModelForSequenceClassification.from_pretrained(folder)
    assert not torch.allclose(base.model.classifier.weight, stored.classifier.weight)
    assert "anger, joy, sadness" in base.notes[0]
    two = trained_elsewhere(model_folder("bert"), names[:2], tmp_path / "two")
    with pytest.raises(ModelError, match="'anger', 'joy'"):
        load_tuned(classifier("bert"), two)


def test_law_44_classes_without_names_are_not_guessed(
    classifier: Callable[..., Base], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = trained_elsewhere(model_folder("bert"), ("LABEL_0", "LABEL_1", "LABEL_2"), tmp_path / "theirs")
    with pytest.raises(ModelError, match=r"does not name its 3 classes .*id2label"):
        load_tuned(classifier("bert"), folder)


def test_law_44_an_adapter_whose_folder_names_its_classes_is_read_by_them(
    classifier: Callable[..., Base], tmp_path: Path
) -> None:
    names = ORDERS[-2]
    base = classifier("bert")
    adapted = get_peft_model(
        base.model, LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"], task_type="SEQ_CLS")
    ).eval()
    theirs = by_name(adapted, names)
    adapted.save_pretrained(tmp_path)
    base.model.config.id2label = dict(enumerate(names))
    base.model.config.save_pretrained(tmp_path)
    assert by_name(load_tuned(classifier("bert"), tmp_path), LABELS) == theirs


@pytest.mark.parametrize(
    ("names", "labels", "order"),
    [
        (("b", "a"), ("a", "b"), [1, 0]),
        (("POSITIVE", "Negative "), ("negative", "positive"), [1, 0]),
        (("LABEL_0", "LABEL_1"), ("0", "1"), [0, 1]),
        (("A", "a"), ("a", "A"), [1, 0]),
        (("A", "a"), ("a", "b"), None),
        (("a", "a"), ("a", "b"), None),
        (("a", "b", "c"), ("a", "b"), None),
        (("LABEL_0", "LABEL_1"), ("no", "yes"), None),
    ],
)
def test_law_44_names_decide(names: tuple[str, ...], labels: tuple[str, ...], order: list[int] | None) -> None:
    assert order_by_name(names, labels) == order
