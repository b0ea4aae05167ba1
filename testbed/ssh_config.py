"""A configuration for the real ssh: each node as NODE.TESTBED, its host key pinned, nothing of the user's own settings.

It stands beside the testbed's record, for ssh's `-F` and for an Include that covers all testbeds there will ever be.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path

from testbed.keys import CLIENT_KEY, KNOWN_HOSTS, write_private

CONFIG = "ssh_config"


def _quoted(path: Path) -> str:
    # ssh expands % in file names (man 5 ssh_config, TOKENS), ends a word at a blank, and a quoted one at a quote.
    escaped = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def entry(testbed: str, node: str, port: int, directory: Path) -> str:
    """The lines for one node, whose keys are in `directory`.

    The host key is looked up by the node's name: its port may come back for another one. What a user's own settings
    for all hosts could do to a guest that is not to be trusted (proxies, agents, displays) is named and ruled out.
    """
    lines = [
        f"Host {node}.{testbed}",
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
        "    ProxyCommand none",
        "    ForwardAgent no",
        "    ForwardX11 no",
        "    PermitLocalCommand no",
        # A machine that is held accepts, and answers when it goes on; a busy emulated one answers within seconds.
        "    ConnectTimeout 60",
        "    LogLevel ERROR",
    ]
    return "\n".join(lines) + "\n"


def write(folder: Path, testbed: str, ports: Mapping[str, int], directory: Path) -> None:
    """Writes `folder`'s configuration for all nodes whose port is known, replacing the one before.

    Raises FileNotFoundError when the folder is gone.
    """
    text = "\n".join(entry(testbed, node, port, directory) for node, port in sorted(ports.items()))
    draft = folder / f"{CONFIG}.new"
    write_private(draft, text.encode())
    draft.replace(folder / CONFIG)


def include(state: Path) -> str:
    """The line for a user's own configuration that knows the nodes of every testbed below `state`, now and later."""
    return f"Include {_quoted(Path(glob.escape(str(state)), '*', CONFIG))}"


def known_hosts(public_keys: Mapping[str, str]) -> str:
    """The text of known_hosts: host keys by the node's name."""
    return "".join(f"{node} {key}\n" for node, key in sorted(public_keys.items()))


def command(folder: Path, host: str, line: str) -> list[str]:
    """The command line that logs in to `host` (NODE.TESTBED), or has its shell run `line`."""
    return ["ssh", "-F", str(folder / CONFIG), host, *(["--", line] if line else [])]
