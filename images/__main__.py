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
        print(f"{time.monotonic() - begin:6.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        images = ensure_all(arguments.arch or ["x86_64", "aarch64"], say)
    except Failure as failure:
        print(f"error: {failure.message}", file=sys.stderr)
        if failure.hint:
            print(f"hint: {failure.hint}", file=sys.stderr)
        return failure.exit_code
    for image in images.values():
        print(image.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
