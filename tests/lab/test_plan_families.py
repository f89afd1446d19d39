"""Arms that differ in rank alone: what lies between two planned ranks is what a plan of its own would say."""

import pytest
import torch

from lab_fixtures import small_config
from tunewise.lab.plan import families
from tunewise.lab.plan.arm import plan_arm
from tunewise.lab.plan.kernels import try_kernels
from tunewise.lab.plan.setting import Kernels, PlanContext
from tunewise.lab.plan.workload import assumed_examples, workload
from tunewise.records.plan import ArmPlan
from tunewise.spec import FullMethod, LoraMethod, Method, TrainSpec


@pytest.mark.slow
def test_an_arm_between_two_ranks_needs_what_a_plan_of_its_own_says() -> None:
    torch.set_num_threads(1)
    train = TrainSpec(batch_size=2)
    setting = PlanContext(
        config=small_config("llama"),
        task="sft",
        num_labels=0,
        heads=(),
        train=train,
        num_steps=3,
        device="cpu",
        precision="fp32",
        attention=None,
    )
    followed: list[tuple[int | None, bool]] = []  # ranks, and whether a real step was made beside the planned one

    def plan(arm: Method, check: bool = True) -> ArmPlan:
        followed.append((getattr(arm, "rank", None), check))
        kernels = try_kernels(setting, arm)
        batching = (kernels or Kernels(None, 0)).batching(train)
        work = workload(assumed_examples("sft", 2, 16), train, 0, batching)
        return plan_arm(setting, work, arm, kernels, 10**9, check)

    ranks = (1, 2, 5, 8, 16)
    arms: dict[str, Method] = {"full": FullMethod(), **{f"r{rank}": LoraMethod(rank=rank) for rank in ranks}}
    found = families.plan_arms(arms, plan)
    assert list(found) == list(arms)
    assert followed == [(16, True), (1, False), (None, True)], "the ends of the family, and full"
    assert all(of.is_checked for of in found.values()), "the operations of a step do not depend on the rank"
    own = plan(arms["r5"])
    assert found["r5"].tuned == own.tuned
    assert found["r5"].saved_bytes == own.saved_bytes
    assert (found["r5"].step, own.step) != (None, None)
    assert own.step is not None
    assert found["r5"].step is not None
    assert 0 <= found["r5"].step.total / own.step.total - 1 < 0.01, "a bound from above, and a near one"
    assert found["r5"].flops_per_token is not None
    assert own.flops_per_token is not None
    assert abs(found["r5"].flops_per_token / own.flops_per_token - 1) < 0.01
