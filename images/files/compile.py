"""Run by the guests' interpreter on the host: compiles the files named on standard input, one a line.

Arguments: the folder that they are relative to, and the path under which tracebacks are to show them. A file that does
not compile ends this with its error.
"""

import py_compile
import sys
from pathlib import Path

folder, prefix = sys.argv[1:]
for name in sys.stdin.read().splitlines():
    py_compile.compile(
        str(Path(folder, name)),
        dfile=str(Path(prefix, name)),
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
