"""What identifies parts of this host that guests depend on."""

import platform
import re
from pathlib import Path


def processor() -> str:
    """What the host's processor calls itself."""
    text = Path("/proc/cpuinfo").read_text()
    # x86 names its model; arm64 gives numbers of the vendor and the part.
    wanted = re.findall(r"^(?:model name|CPU implementer|CPU part)\s*:\s*(.*)$", text, re.MULTILINE)
    return " ".join(dict.fromkeys(wanted)) or platform.machine()


def build_of(program: Path) -> str:
    """Tells one build of a program from another; asking for its version would take longer."""
    real = program.resolve()
    status = real.stat()
    return f"{real} {status.st_size} {status.st_mtime_ns}"
