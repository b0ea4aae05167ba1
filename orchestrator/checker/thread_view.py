"""A world of threads for people: what every kernel has of the process."""

from typing import Any, NamedTuple

from orchestrator.checker.thread_step import Surroundings


class ThreadsView(NamedTuple):
    """One kernel; dead, it has nothing."""

    letters: str
    """Of all threads: `R` runs, `W` wants to leave, `A` arrives, `P` has a placeholder, `-` nothing; `x` of a dead
    kernel."""
    process: str = "dead"

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"alive": self.letters != "x", "process": self.process, "threads": self.letters}

    def __str__(self) -> str:
        doing = enumerate(map(_WORDS.get, self.letters))
        return "; ".join([self.process, *(f"thread {thread} {words}" for thread, words in doing if words)])


_WORDS = {"R": "runs", "W": "wants to leave", "A": "arrives", "P": "has a placeholder"}


def view_of(local: Surroundings, threads: int) -> ThreadsView:
    """A living kernel."""
    here, coming = dict(local.here), dict(local.coming)

    def letter(thread: int) -> str:
        if thread in here:
            return "W" if here[thread].waits else "R"
        if thread in coming:
            return "A"
        return "P" if thread in local.placeholders else "-"

    process = "has the process" if local.there else "joins" if local.joining else "has nothing of the process"
    return ThreadsView("".join(map(letter, range(threads))), process)
