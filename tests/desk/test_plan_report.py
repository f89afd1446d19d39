"""What follows from a plan: what fits, how fast a card could be at best, and what is shown of it."""

import math
from io import StringIO

import pytest
from rich.console import Console

from tunewise.desk import outlook
from tunewise.desk.gpus import GPUS, Gpu, find_gpu
from tunewise.desk.report.plan import USES, chart, print_plan
from tunewise.errors import SpecError
from tunewise.plans import ArmPlan, PeakMemory, StudyPlan, Work
from tunewise.records import SplitSummary, Tuned
from tunewise.spec import StudySpec

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


def arm_plan(**changes: object) -> ArmPlan:
    tuned = Tuned(
        trainable_parameters=294_912,
        total_parameters=124_734_720,
        scale=4.0,
        num_target_modules=12,
        linear_share=0.25,
        parameter_groups=(),
    )
    content = {
        "tuned": tuned,
        "micro_batches": ((6, 1000), (10, 900)),
        "is_packed": False,
        "step": PEAK,
        "evaluation": PEAK.replace(gradients=0, optimizer=0),
        "flops_per_token": 600_000_000,
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
        work=Work.model_validate({**content, **(work or {})}),
        arms=arms or {"lora": arm_plan()},
    )


def study() -> StudySpec:
    return StudySpec.model_validate({"name": "n", "data": {"train": "a"}, "arms": {"lora": {"method": "lora"}}})


def printed(plan: StudyPlan, card: tuple[str, Gpu] | None = None, width: int = 160) -> str:
    text = StringIO()
    print_plan(study(), plan, card, Console(file=text, width=width))
    return text.getvalue()


# --- what follows


def test_a_peak_is_tight_above_nine_tenths_of_the_memory() -> None:
    assert outlook.fit(PEAK, PEAK.total) == "tight"
    assert outlook.fit(PEAK, PEAK.total - 1) == "does not fit"
    assert outlook.fit(PEAK, math.ceil(PEAK.total / 0.9) + 1) == "fits"


def test_a_quantized_base_replaces_the_bytes_of_its_frozen_weights_by_four_bits_and_constants() -> None:
    packed = outlook.quantized(arm_plan())
    assert packed is not None
    assert PEAK.weights - packed.weights == 2 * GIB - round(GIB * 4.127 / 8)
    assert packed.activations == PEAK.activations
    assert outlook.quantized(arm_plan(frozen_linear_weights=0, frozen_linear_bytes=0)) is None
    assert outlook.quantized(arm_plan(step=None)) is None


def test_an_epoch_is_bound_by_the_cards_rate_or_by_its_bandwidth() -> None:
    """1000 rows of 50 tokens at 0.6 GFLOP are 30 TFLOP; 63 steps move 2 x 4 GiB of weights, 2 x 2 GiB of state, and
    four times 1.18 MB of gradients and weights that learn."""
    arm, plan = arm_plan(), study_plan()
    by_rate = Gpu(24, 1e9, 10.0, "")
    assert outlook.least_epoch_seconds(arm, plan, by_rate) == pytest.approx(3.0)
    by_bandwidth = Gpu(24, 100.0, 1e9, "")
    moved = 63 * (12 * GIB + 4 * 4 * 294_912)
    assert outlook.least_epoch_seconds(arm, plan, by_bandwidth) == pytest.approx(moved / 100e9)


def test_without_rows_or_without_bf16_there_is_no_time() -> None:
    card = Gpu(24, 1000.0, 100.0, "")
    assert outlook.least_epoch_seconds(arm_plan(), study_plan({"num_rows": None}), card) is None
    assert outlook.least_epoch_seconds(arm_plan(), study_plan(), card._replace(bf16_teraflops=None)) is None


def test_the_margin_is_that_of_check() -> None:
    found = outlook.resolvable_margin(study(), study_plan())
    assert found is not None
    assert found[1] == "nll"
    assert 0 < found[0] < 1
    assert outlook.resolvable_margin(study(), study_plan({"splits": ()})) is None
    assert outlook.resolvable_margin(study().replace(looks=(1,)), study_plan()) is None, "one seed resolves nothing"


# --- cards


def test_every_card_names_its_source_and_plausible_figures() -> None:
    for name, card in GPUS.items():
        assert card.source, name
        assert 8 <= card.memory_gb <= 200
        assert 200 <= card.bandwidth_gb_per_second <= 10_000
        assert card.bf16_teraflops is None or 40 <= card.bf16_teraflops <= 3000


def test_a_card_is_found_whatever_its_capitals_and_a_near_miss_is_named() -> None:
    assert find_gpu("rtx-4090")[0] == "RTX-4090"
    with pytest.raises(SpecError, match="A100-80GB"):
        find_gpu("A100-80")


def test_a_card_without_bf16_is_planned_in_fp32() -> None:
    assert find_gpu("T4")[1].request().precision == "fp32"
    assert find_gpu("L4")[1].request().precision == "bf16"


# --- what is shown


def test_the_table_says_parameters_share_memory_and_whether_it_was_checked() -> None:
    text = printed(study_plan(full=arm_plan(is_checked=False), lora=arm_plan()))
    for words in ("294,912", "0.2364 %", "10.5 GiB", "4,096 tokens", "checked", "estimate", "fits", "smallest margin"):
        assert words in text, words


def test_figures_for_a_card_are_called_derived() -> None:
    text = printed(study_plan(), ("L4", GPUS["L4"]))
    assert "Derived: nothing was measured on such a card." in text
    assert "epoch, at least" in text
    assert GPUS["L4"].source in text


def test_a_missing_figure_is_a_dash_and_its_reason_is_told() -> None:
    text = printed(study_plan(lora=arm_plan(step=None, evaluation=None, flops_per_token=None, note="it looks away")))
    assert "–" in text
    assert "it looks away" in text
    assert "GiB" not in text.split("peak of a step")[1].split("\n")[0]


def test_without_data_the_assumed_length_is_told() -> None:
    assert "every example is taken to have 300 tokens" in printed(study_plan({"splits": ()}))


def test_the_chart_has_a_bar_for_every_arm_and_one_in_four_bits() -> None:
    svg = chart(study_plan(full=arm_plan(frozen_linear_weights=0, frozen_linear_bytes=0), lora=arm_plan()))
    assert svg.startswith("<svg")
    for words in (*USES, "full", "lora, base in 4 bits (derived)", "10.5 GiB"):
        assert words in svg, words
