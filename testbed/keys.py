"""SSH keys of one testbed: made for it, pinned on both sides, gone with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CLIENT_KEY = "id_ed25519"
KNOWN_HOSTS = "known_hosts"


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key: `private` in OpenSSH's own format, `public` as one line `ssh-ed25519 BASE64`."""

    private: bytes
    public: str

    @classmethod
    def generate(cls) -> KeyPair:
        """A new one, from the operating system's randomness."""
        # Imported here: only the command that starts a testbed pays for it.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

        key = Ed25519PrivateKey.generate()
        return cls(
            private=key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            public=key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        )


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that nobody else can read, not even for a moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
