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

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")]

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Put a value into the file, whatever it says; may be repeated."),
]

OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Use the images that are there; fail rather than download anything.")
]
