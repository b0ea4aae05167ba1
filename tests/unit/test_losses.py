"""What a point lost, in words and in its result."""

from typing import Any

from orchestrator.results.losses import DeadThread, Losses, as_failure, losses_of
from testbed.errors import GuestError

KERNELS = ["x86", "arm", "far"]


def answer(*, kernels: tuple[int, ...] = (), pages: tuple[int, ...] = (), threads: Any = ()) -> dict[str, Any]:
    return {"dead_kernels": list(kernels), "lost_pages": list(pages), "dead_threads": list(threads)}


def test_nothing_lost_is_nothing() -> None:
    assert not losses_of(KERNELS, {node: answer() for node in KERNELS}, {})


def test_losses_of_all_nodes_are_put_together() -> None:
    died = {"thread": 1, "how": "killed by SIGKILL"}
    answers = {"x86": answer(kernels=(1,), pages=(7, 3)), "far": answer(kernels=(1,), pages=(3,), threads=[died])}
    losses = losses_of(KERNELS, answers, {"arm": GuestError("node arm: its agent was gone")})
    assert losses == Losses(
        {"arm": "node arm: its agent was gone"}, (DeadThread("far", 1, "killed by SIGKILL"),), (3, 7)
    )
    assert str(losses).splitlines() == [
        "node arm is gone: node arm: its agent was gone",
        "node far: thread 1 ended before it was done: killed by SIGKILL",
        "2 pages lost, their only valid copy died: 3, 7",
    ]


def test_a_thread_of_a_process_is_lost_once_and_named_with_its_process() -> None:
    lost = [{"thread": 2, "process": process, "how": "its kernel died"} for process in (0, 7)]
    losses = losses_of(KERNELS, {"x86": answer(threads=lost), "arm": answer(threads=lost)}, {})
    assert str(losses).splitlines() == [
        "node x86: thread 2 ended before it was done: its kernel died",
        "node x86: thread 2 of process 7 ended before it was done: its kernel died",
    ]


def test_a_kernel_that_only_the_others_know_to_be_dead_is_named_too() -> None:
    losses = losses_of(KERNELS, {"x86": answer(kernels=(2,)), "arm": answer(kernels=(2,))}, {})
    assert list(losses.kernels) == ["far"]


def test_many_lost_pages_are_counted_and_the_first_are_shown() -> None:
    assert str(Losses(pages=tuple(range(100)))).startswith("100 pages lost, their only valid copy died: 0, 1, 2, 3,")


def test_a_run_with_losses_is_the_guests_failure() -> None:
    failure = as_failure(Losses(pages=(5,)))
    assert failure.exit_code == 3
    assert failure.message.startswith("not all of it came to the end\n1 page lost")
