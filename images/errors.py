"""The two words every error of the project has: what was seen, and a hint what to do."""


class Failure(Exception):
    """An end that the user is told about: `message` says what was seen, where, and what was expected."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class HostError(Failure):
    """The host cannot do it: a package, a permission, space, the accelerator, libvirt."""
