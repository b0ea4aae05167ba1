"""Makes docs/quickstart.svg out of a run's summary: what a terminal shows of it, as a picture.

.venv/bin/python docs/picture.py results/RUN/run.json >docs/quickstart.svg
"""

import json
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from rich.console import Console
from rich.text import Text

from orchestrator.results.summary_table import render

COMMAND = "./tb run configs/quickstart.yaml"
FILL = {1: "#f85149", 2: "#3fb950"}  # by number of the ANSI colour
LINE_PX, CHARACTER_PX, MARGIN_PX = 19, 8.43, 16
# The reader's own fonts: a picture fetches nothing. One text element a line keeps columns straight in any of them.
TEXT = 'xml:space="preserve" font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14"'


def picture(summary: dict[str, object]) -> str:
    """The SVG. Paths of the machine that the run was made on are cut to what follows the tree."""
    text = render(summary, color=True).replace(str(Path.cwd()) + "/", "")
    lines = list(Text.from_ansi(f"$ {COMMAND}\n\n{text}".rstrip()).split("\n"))
    for line in lines:
        line.rstrip()
    width = round(max(len(line) for line in lines) * CHARACTER_PX + 2 * MARGIN_PX)
    height = len(lines) * LINE_PX + 2 * MARGIN_PX
    rows = [
        f'<text x="{MARGIN_PX}" y="{MARGIN_PX + (index + 0.75) * LINE_PX:g}" {TEXT}>{"".join(_spans(line))}</text>'
        for index, line in enumerate(lines)
        if line
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" fill="#e6edf3">',
            f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>',
            *rows,
            "</svg>",
            "",
        ]
    )


def _spans(line: Text) -> Iterator[str]:
    for segment in line.render(Console()):
        style, text = segment.style, escape(segment.text).replace(" ", "\N{NO-BREAK SPACE}")
        number = style.color.number if style and style.color else None
        attributes = f' fill="{FILL[number]}"' if number in FILL else ""
        attributes += ' font-weight="bold"' if style and style.bold else ""
        yield f"<tspan{attributes}>{text}</tspan>" if attributes else text


if __name__ == "__main__":
    sys.stdout.write(picture(json.loads(Path(sys.argv[1]).read_text())))
