"""Control steps: at least as often as asked, about every two seconds, and a stop that any rank wants."""

import torch

from orchestrator.training.agreement import Agreement
from orchestrator.training.reports import Wish

CPU = torch.device("cpu")


def test_the_next_control_step_is_never_further_than_the_greatest_interval() -> None:
    agreement = Agreement(every_minutes=None, max_interval=7, device=CPU)
    assert agreement.is_due(1)
    agreement.decide(1, wish=Wish.GO_ON)
    assert not agreement.is_due(2)
    assert agreement.is_due(8)


def test_a_request_to_stop_is_agreed_and_no_checkpoint_is_due_without_a_clock() -> None:
    agreement = Agreement(every_minutes=None, max_interval=10, device=CPU)
    assert agreement.decide(1, wish=Wish.GO_ON).wish is Wish.GO_ON
    decision = agreement.decide(11, wish=Wish.STOP)
    assert decision.wish is Wish.STOP
    assert not decision.checkpoint


def test_a_checkpoint_is_due_by_the_clock_until_one_is_written() -> None:
    agreement = Agreement(every_minutes=1e-9, max_interval=10, device=CPU)
    assert agreement.decide(1, wish=Wish.GO_ON).checkpoint
    hourly = Agreement(every_minutes=60, max_interval=10, device=CPU)
    assert not hourly.decide(1, wish=Wish.GO_ON).checkpoint


def test_after_a_resume_steps_are_timed_from_where_it_began() -> None:
    agreement = Agreement(every_minutes=None, max_interval=50, device=CPU, first_step=100_000)
    agreement._last_control = (100_000, agreement._last_control[1] - 5.0)  # a step of five seconds
    agreement.decide(100_001, wish=Wish.GO_ON)
    assert agreement.is_due(100_002)
