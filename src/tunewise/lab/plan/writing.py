"""Time that an arm takes to write an answer, measured on a few tokens of one batch."""

import time
from collections.abc import Sequence

import torch

from tunewise.lab.compute import Compute
from tunewise.lab.data.batching import Example
from tunewise.lab.data.examples import prompt_length
from tunewise.lab.evaluate.generate import Ends, continued, pieces
from tunewise.spec import StudySpec, Task

NUM_TIMED = 9  # tokens: enough for the time of one more, as each costs about the same


def write_seconds_per_row(
    model: torch.nn.Module, examples: Sequence[Example], study: StudySpec, task: Task, compute: Compute
) -> float | None:
    """Seconds per row of answers that never end before samples.max_new_tokens. None: the study selects by no texts.

    `examples` are few, and their first batch, of the longest prompts, is timed.
    """
    if not study.select_by:
        return None
    most = study.samples.max_new_tokens
    prompts = [list(e.input_ids[: prompt_length(task, e.supervised)]) or [0] for e in examples]
    batch = [prompts[row] for row in pieces(prompts, most, study.train.tokens_at_once)[0]]

    def seconds(num_tokens: int) -> float:
        begin = time.perf_counter()
        with torch.no_grad(), compute.autocast():
            continued(batch, model, Ends((), 0), num_tokens).cpu()  # a GPU is waited for
        return time.perf_counter() - begin

    model.eval()
    seconds(1)  # sets things up
    first, timed = seconds(1), min(most, NUM_TIMED)
    each = max(0.0, seconds(timed) - first) / (timed - 1) if timed > 1 else 0.0
    return (first + (most - 1) * each) / len(batch)
