"""A configuration for the real ssh: each node by its name, its host key pinned, nothing of the user's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testbed.keys import CLIENT_KEY, KNOWN_HOSTS

CONFIG = "ssh_config"


def _quoted(path: Path) -> str:
    # ssh expands % in file names (man 5 ssh_config, TOKENS), and takes a blank as the end of a word.
    return '"' + str(path).replace("%", "%%") + '"'


def entry(node: str, port: int, directory: Path) -> str:
    """The lines for one node. The host key is looked up by the node's name: its port may come back for another one."""
    lines = [
        f"Host {node}",
        "    HostName 127.0.0.1",
        f"    Port {port}",
        "    User root",
        f"    HostKeyAlias {node}",
        "    HostKeyAlgorithms ssh-ed25519",
        "    StrictHostKeyChecking yes",
        f"    UserKnownHostsFile {_quoted(directory / KNOWN_HOSTS)}",
        "    GlobalKnownHostsFile /dev/null",
        "    UpdateHostKeys no",
        f"    IdentityFile {_quoted(directory / CLIENT_KEY)}",
        "    IdentitiesOnly yes",
        "    IdentityAgent none",
        "    PreferredAuthentications publickey",
        "    ControlMaster no",
        "    ControlPath none",
        "    LogLevel ERROR",
    ]
    return "\n".join(lines) + "\n"


def write(directory: Path, ports: Mapping[str, int]) -> None:
    """Writes the configuration for all nodes whose port is known, replacing the one before."""
    text = "\n".join(entry(node, port, directory) for node, port in sorted(ports.items()))
    draft = directory / f"{CONFIG}.new"
    draft.write_text(text)
    draft.replace(directory / CONFIG)


def known_hosts(public_keys: Mapping[str, str]) -> str:
    """The text of known_hosts: host keys by the node's name."""
    return "".join(f"{node} {key}\n" for node, key in sorted(public_keys.items()))


def command(directory: Path, node: str, line: str) -> list[str]:
    """The command line that logs in to `node`, or has its shell run `line`."""
    return ["ssh", "-F", str(directory / CONFIG), node, *(["--", line] if line else [])]
