"""Threads on all kernels count under a mutex, hand things over at a condition, share permits, and meet."""

MUTEX, CONDITION, SEMAPHORE, MEETING, COUNTER, EVENT = range(0, 6 * 64, 64)
COUNT, SERVED, FULL, HANDED, INSIDE, MOST = range(512, 518)
"""Words of the next page that are only touched under the mutex, so that nothing about them is atomic."""


def worker(part):
    words = part.memory.cast("Q")
    mutex = part.mutex(MUTEX)
    meeting = part.meeting(MEETING, part.ranks)

    count(part, mutex, words)
    meeting.wait()
    part.check(8 * COUNT, part.ranks * part.iterations, words[COUNT])

    hand_over(part, part.condition(CONDITION, mutex), words)
    meeting.wait()
    part.check(8 * HANDED, part.ranks // 2 * part.iterations, words[HANDED])

    share(part, mutex, words)
    meeting.wait()
    part.check(8 * INSIDE, 0, words[INSIDE])
    assert 1 <= words[MOST] <= 2, f"{words[MOST]} threads had one of two permits"

    if part.rank == part.ranks - 1:
        words[COUNT] = 7
        part.event(EVENT).set()
    part.event(EVENT).wait()
    part.check(8 * COUNT, 7, words[COUNT])


def count(part, mutex, words):
    """Add without an atomic instruction; each is served in the order of its ticket."""
    for _ in range(part.iterations):
        mutex.enqueue()
        ticket = mutex.ticket
        with mutex:
            part.check(8 * SERVED, ticket, words[SERVED])
            words[SERVED] = ticket + 1
            words[COUNT] += 1
        part.counter(COUNTER).add(2)
    assert part.counter(COUNTER).value >= 2 * part.iterations


def hand_over(part, condition, words):
    """Threads of even rank put a thing there, one at a time, and those of odd rank take it."""
    if part.rank == part.ranks - 1 and part.ranks % 2:
        return
    for _ in range(part.iterations):
        with condition:
            if part.rank % 2:
                condition.wait_for(lambda: words[FULL])
                words[FULL] = 0
                words[HANDED] += 1
            else:
                condition.wait_for(lambda: not words[FULL])
                words[FULL] = 1
            condition.notify_all()


def share(part, mutex, words):
    """At most two are inside at the same moment."""
    semaphore = part.semaphore(SEMAPHORE, 2)
    for _ in range(part.iterations):
        with semaphore:
            with mutex:
                words[INSIDE] += 1
                words[MOST] = max(words[MOST], words[INSIDE])
            with mutex:
                words[INSIDE] -= 1
