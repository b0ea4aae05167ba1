import os
import time
from collections.abc import Callable

from testbed.activity import Activity, work_of


def worked(*seconds: float | None) -> Callable[[int], int | None]:
    """What a process has done at each look."""
    looks = iter(seconds)

    def work(_pid: int) -> int | None:
        done = next(looks)
        return None if done is None else int(done * 1e9)

    return work


def after(activity: Activity, begin: float, *moments: float) -> list[float]:
    return [round(activity.still_s(begin + moment), 1) for moment in moments]


def test_a_machine_is_still_while_it_does_next_to_nothing_and_until_it_works_again() -> None:
    activity = Activity(1, worked(0.0, 0.01, 0.1, 0.1, 1.1, 1.2))
    begin = time.monotonic()
    assert after(activity, begin, 2, 4, 5, 6, 8) == [2.0, 4.0, 5.0, 0.0, 2.0]


def test_it_looks_once_a_second_however_often_it_is_asked() -> None:
    activity = Activity(1, worked(0.0, 0.0))
    begin = time.monotonic()
    assert after(activity, begin, 0.2, 0.5, 0.9, 1.5, 1.6, 2.0) == [0.0, 0.0, 0.0, 1.5, 1.5, 1.5]


def test_what_is_not_known_is_not_called_still() -> None:
    activity = Activity(1, worked(0.0, None, 0.0, 0.0))
    begin = time.monotonic()
    assert after(activity, begin, 2, 4, 6) == [0.0, 0.0, 2.0]


def test_a_reason_to_be_still_begins_the_count_anew() -> None:
    activity = Activity(1, worked(0.0, 0.0, 0.0))
    begin = time.monotonic()
    assert after(activity, begin, 3) == [3.0]
    activity.forget()
    assert after(activity, begin, 3.5, 5) == [0.0, 2.0]


def test_work_of_this_process_grows_and_a_process_that_is_gone_is_unknown() -> None:
    before = work_of(os.getpid())
    assert before is not None
    sum(range(2_000_000))
    later = work_of(os.getpid())
    assert later is not None
    assert later > before
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert work_of(child) is None
