"""`testbed image`: the guests' kernels and root file systems."""

import json
import time
from typing import Annotated

import typer

app = typer.Typer(help="Guest images: list, build.", no_args_is_help=True, rich_markup_mode=None)
ARCHITECTURES = ("x86_64", "aarch64")


@app.command("list")
def list_images(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
) -> None:
    """List the images that are there; `*` marks those that guests boot now.

    \b
    Examples:
      testbed image list
      testbed image list --json
    """
    from images.image import read
    from images.store import DEFINITION, key_of, store

    current = key_of(DEFINITION)
    rows = []
    for record in sorted(store().glob("*/image.json")):
        image = read(record.parent)
        size_bytes = sum(file.stat().st_size for file in (image.kernel, image.initramfs, image.root))
        rows.append(
            {
                "arch": image.arch,
                "key": image.key,
                "current": image.key == current,
                "kernel": image.kernel_release,
                "python": image.python_version,
                "size_bytes": size_bytes,
                "directory": str(image.directory),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        mark = "*" if row["current"] else " "
        typer.echo(
            f"{mark} {row['arch']:8} {row['key']} linux {row['kernel']} python {row['python']} "
            f"{int(str(row['size_bytes'])) >> 20} MiB {row['directory']}"
        )
    if not any(row["current"] for row in rows):
        typer.echo("no image of the current definition yet: `testbed image build`", err=True)


@app.command()
def build(
    arch: Annotated[list[str] | None, typer.Argument(help="Instruction sets; all when left out.")] = None,
    offline: Annotated[bool, typer.Option(help="Use what is there; fail rather than download.")] = False,
) -> None:
    """Build the images that are missing, and print where they are.

    \b
    Examples:
      testbed image build
      testbed image build aarch64
    """
    from images import ensure_all
    from orchestrator.errors import InputError
    from orchestrator.vocabulary import nearest

    wanted = arch or list(ARCHITECTURES)
    for name in wanted:
        if name not in ARCHITECTURES:
            near = nearest(name, ARCHITECTURES)
            hint = f"did you mean '{near}'?" if near else ""
            raise InputError(f"found the instruction set '{name}', expected {' or '.join(ARCHITECTURES)}", hint)
    begin = time.monotonic()
    say = lambda line: typer.echo(f"{time.monotonic() - begin:6.1f} s  {line}", err=True)  # noqa: E731
    for image in ensure_all(wanted, say, offline=offline).values():
        typer.echo(f"{image.arch} {image.directory}")
