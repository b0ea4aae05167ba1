"""docs/protocol.md shows what the code does today."""

from pathlib import Path

import pytest

from guest.protocol.messages import MessageName
from guest.protocol.origin_table import AWAY, HOME
from guest.protocol.table import TABLE
from orchestrator.checker.protocol_charts import CHARTS, redraw

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_every_chart_of_the_page_is_drawn_from_the_code_of_today() -> None:
    page = PAGE.read_text()
    assert redraw(page) == page, "draw it again: python -m orchestrator.checker.protocol_charts docs/protocol.md"


def test_every_chart_is_on_a_page() -> None:
    pages = "".join(page.read_text() for page in PAGE.parent.glob("*.md"))
    for name in CHARTS:
        assert f"<!-- drawn: {name} -->" in pages


def test_every_message_of_the_protocol_is_explained() -> None:
    page = PAGE.read_text()
    for name in {name for table in (TABLE, HOME, AWAY) for rule in table.values() for name in rule.sends}:
        assert f"| {MessageName(name).name} |" in page


def test_a_chart_that_nobody_can_draw_is_named() -> None:
    with pytest.raises(ValueError, match="no chart is named 'moon'; there are"):
        redraw("<!-- drawn: moon -->\n<!-- end -->")
