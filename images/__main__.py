"""`python -m images build [ARCH …]`: builds what is missing, and says where it is."""

from __future__ import annotations

import argparse
import sys
import time

from images.errors import Failure
from images.store import ensure_all


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    parser.add_argument("command", choices=["build"])
    parser.add_argument("arch", nargs="*", help="default: x86_64 aarch64")
    arguments = parser.parse_args()
    begin = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - begin:6.1f} s  {line}\n")
        sys.stderr.flush()

    try:
        images = ensure_all(arguments.arch or ["x86_64", "aarch64"], say)
    except Failure as failure:
        sys.stderr.write(f"error: {failure.message}\n" + (f"hint: {failure.hint}\n" if failure.hint else ""))
        return failure.exit_code
    sys.stdout.writelines(f"{image.directory}\n" for image in images.values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
