"""Options that several commands have."""

from typing import Annotated

import typer

WarmOption = Annotated[
    bool | None,
    typer.Option(
        "--warm/--cold",
        help="Start machines from saved states, and make those that are missing; or boot in any case. "
        "If neither is given, machines start from saved states where there are some.",
        show_default=False,
    ),
]
