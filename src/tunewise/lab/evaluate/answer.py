"""Answers of base and tuned models to one prompt, which is read as in training."""

from collections.abc import Mapping
from pathlib import Path

import torch

from tunewise.lab.data.examples import prompt_ids
from tunewise.lab.evaluate.generate import generate
from tunewise.lab.models.load import load_base, load_config, load_tokenizer, load_tuned
from tunewise.lab.weights.quantized import quantize
from tunewise.records import DataSummary
from tunewise.spec import TASKS, StudySpec


def answer(
    study: StudySpec, data: DataSummary, folders: Mapping[str, Path], prompt: str, max_new_tokens: int
) -> dict[str, str]:
    """Arm -> its text (classification: its label and probability); the base first, if it can answer."""
    config = load_config(study.model, data.task, study.trust_remote_code)
    tokenizer = load_tokenizer(study.model, config, study.trust_remote_code)
    if data.chat_template is not None:  # as used in training, whatever its file contains now
        tokenizer.chat_template = data.chat_template
        study = study.replace(data=study.data.replace(chat_template=None).model_dump())
    ids = prompt_ids(study, data.task, tokenizer, prompt, is_chat=data.is_chat)
    answers = {}
    for arm, folder in {"base": None, **folders}.items():
        torch.manual_seed(0)
        base = load_base(study.model, data.task, data.labels, tokenizer, study.trust_remote_code)
        if folder is None and base.new_parameters:
            continue  # an untrained head cannot answer
        stored = study.arms[arm].quantized if folder is not None else None
        if stored is not None:
            quantize(base.model, base.head_modules, stored, "cpu")
        model = base.model if folder is None else load_tuned(base, folder, study.trust_remote_code)
        if TASKS[data.task].has_classes:
            answers[arm] = _label(model, ids, data.labels)
        else:
            answers[arm] = generate(model, tokenizer, [ids], max_new_tokens, len(ids))[0].text
    return answers


@torch.no_grad()
def _label(model: torch.nn.Module, ids: list[int], labels: tuple[str, ...]) -> str:
    inputs = torch.tensor([ids])
    probabilities = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits[0].softmax(0)
    best = int(probabilities.argmax())
    return f"{labels[best]} ({float(probabilities[best]):.1%})"
