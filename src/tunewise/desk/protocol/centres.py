"""The center of the learning-rate search of an arm."""

import math

from tunewise.records.data import DataSummary, num_steps
from tunewise.spec import TrainedArm
from tunewise.spec.resolved import ResolvedStudy

SHORT_RUN_STEPS = 100  # below it LoRA's best rate is about 15x full's instead of 10x ("LoRA Without Regret")


# Centers for full fine-tuning, measured here or common practice; others follow the rule in `centre`.
FULL_CENTRES = {"bert": 5e-5, "roberta": 2e-5, "distilbert": 5e-5, "deberta-v2": 2e-5, "modernbert": 5e-5}


def centre(study: ResolvedStudy, data: DataSummary, method: TrainedArm) -> float:
    """The learning rate at which the search of an arm starts.

    Full: a table by model family, else 5e-5 (2000 / hidden)^0.5. LoRA: 10 times that (15 times in runs under 100
    steps), times sqrt(32 / (scale * rank)). Source: Schulman et al. 2025, "LoRA Without Regret".
    """
    if method.learning_rate is not None:
        return method.learning_rate
    full = FULL_CENTRES.get(data.model_type, 5e-5 * math.sqrt(2000 / data.hidden_size))
    if method.method == "full":
        return full
    ratio = 10.0 if num_steps(study, data) >= SHORT_RUN_STEPS else 15.0
    if method.method == "lora":
        return full * ratio * math.sqrt(32 / (method.scale * method.top_rank))
    return full * ratio
