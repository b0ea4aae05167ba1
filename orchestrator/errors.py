"""Ends of a command that are the user's file's or the experiment's; those of host and guest come from below."""

from collections.abc import Sequence
from signal import Signals

from images.errors import Failure
from orchestrator.words import counted
from testbed.errors import of_host

DEFECT_EXIT_CODE = 3
"""Of ends that nobody thought of."""


class InputError(Failure):
    """The command cannot be understood or names something that does not exist. Nothing was started."""

    exit_code = 2


class FileError(InputError):
    """The experiment file is wrong; `problems` holds every single one, as `FILE:LINE:COLUMN: found …, expected …`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(
            "\n".join(problems),
            f"{counted(len(problems), 'problem')}; nothing was started. `testbed schema` prints what a file may hold.",
        )
        self.problems = tuple(problems)


class CheckFailed(Failure):
    """The experiment ran, and what it showed is not what was expected."""

    exit_code = 1


class PointsFailed(Failure):
    """Points did not come to their end: their guests died, or their time was over."""


class OutOfTime(Failure):
    """The time that the whole run had been given was over before its last point was begun."""


class RunEnded(Failure):
    """What ended a run, once its run.json has told it: standard output has been written, this is for people."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived. Like KeyboardInterrupt it passes `except Exception` on its way to teardown."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {Signals(number).name}")
        self.exit_code = 128 + number


DEFECT = "defect"
"""The kind of an end that nobody thought of."""


def end_of(error: BaseException) -> dict[str, str]:
    """What ended a run, as its results tell it: kind, message, hint."""
    match error:
        case CheckFailed():
            return {"kind": "check", "message": error.message, "hint": error.hint}
        case Failure():
            return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        case Stopped():
            return {"kind": "interrupted", "message": str(error), "hint": ""}
        case OSError() if failure := of_host(error):
            return {"kind": "HostError", "message": failure.message, "hint": failure.hint}
    return {"kind": DEFECT, "message": f"{type(error).__name__}: {error}", "hint": ""}
