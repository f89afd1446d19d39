"""A plan as the lab would make it, for the tests of what is made of it."""

from tunewise.records import SplitSummary, TrainableSummary
from tunewise.records.plan import ArmPlan, PeakMemory, Speed, StudyPlan, Work

GIB = 2**30
PEAK = PeakMemory(weights=4 * GIB, gradients=1 * GIB, optimizer=2 * GIB, activations=3 * GIB, logits=GIB // 2)
TEST = SplitSummary(
    split="test",
    source="test.jsonl",
    rows_read=500,
    rows=500,
    units=500,
    tokens=5000,
    supervised_tokens=2500,
    truncated_rows=0,
    truncated_tokens=0,
    duplicates_dropped=0,
)


TUNED = TrainableSummary(
    trainable_parameters=294_912,
    total_parameters=124_734_720,
    scale=4.0,
    num_target_modules=12,
    linear_share=0.25,
    parameter_groups=(),
)


def arm_plan(**changes: object) -> ArmPlan:
    content = {
        "tuned": TUNED,
        "micro_batches": ((6, 1000), (10, 900)),
        "is_packed": False,
        "step": PEAK,
        "evaluation": PEAK.replace(gradients=0, optimizer=0),
        "flops_per_token": 600_000_000,
        "scoring_flops_per_token": 250_000_000,
        "saved_bytes": 1_179_648,
        "frozen_linear_weights": GIB,
        "frozen_linear_bytes": 2 * GIB,
        "largest_micro_batch": 4096,
        "is_checked": True,
    }
    return ArmPlan.model_validate({**content, **changes})


def study_plan(work: dict[str, object] | None = None, **arms: ArmPlan) -> StudyPlan:
    content = {
        "num_rows": 1000,
        "num_steps": 126,
        "batch_size": 16,
        "longest": 300,
        "tokens_per_row": 50.0,
        "splits": (TEST,),
    }
    return StudyPlan(
        model="gpt2",
        model_type="gpt2",
        task="sft",
        device="cpu",
        precision="bf16",
        threads=2,
        memory_bytes=24 * GIB,
        micro_batch_tokens=2048,
        work=Work.model_validate({**content, **(work or {})}),
        arms=arms or {"lora": arm_plan()},
    )


SPEED = Speed(
    source="steps",
    step_seconds=2.0,
    score_seconds_per_token=0.01,
    fp32_score_seconds_per_token=0.03,
    peak_above_start_bytes=None,
)
