"""The tuned model as files, which peft and transformers read."""

import torch
from peft import PeftModel

from tunewise.lab.methods import Method
from tunewise.lab.run.context import RunContext
from tunewise.storage.disk import delete, set_modes
from tunewise.storage.files import files_below, reraise_as_study_error
from tunewise.storage.seal import CARD


def save(run: RunContext, method: Method, model: torch.nn.Module) -> int:
    """Write the tuned model and its tokenizer; returns the bytes of the model. Only the first process writes."""
    weights, tokenizer = run.weights, run.tokenizer
    run.placement.gather(model, only_trained=isinstance(model, PeftModel))  # all that the file will hold
    if not run.placement.is_first:
        return 0
    if run.data.chat_template is not None:
        tokenizer.chat_template = run.data.chat_template
    delete(weights)
    with reraise_as_study_error(weights):
        weights.mkdir()  # a new folder, so that nothing in it can be a link
        method.save(model, weights)
        saved_bytes = sum(path.stat().st_size for path in files_below(weights) if path.name != CARD)
        tokenizer.save_pretrained(weights)
    set_modes(weights)
    return saved_bytes
