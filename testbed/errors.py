"""What can go wrong with machines: the host's part comes from `images.errors`, the guests' part is here."""

from images.errors import Failure, HostError

__all__ = ["Failure", "GuestError", "HostError"]


class GuestError(Failure):
    """A guest did not come up, died, or did not answer. The message holds its last console lines."""
