"""`testbed image`: the guests' kernels and root file systems, and the states saved of guests that booted them."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.output import typed

if TYPE_CHECKING:
    from images import Image
    from testbed.states import State

app = typer.Typer(
    help="Guest images: list, build, inspect, verify, prune.", no_args_is_help=True, rich_markup_mode=None
)
ARCHITECTURES = ("x86_64", "aarch64")
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")]


@app.command("list")
def list_images(as_json: JsonOption = False) -> None:
    """List images and saved states that are there; `*` marks those that guests start from now.

    \b
    Examples:
      testbed image list
      testbed image list --json
    """
    from images.store import images
    from testbed.states import states

    current = _current_key()
    rows = [_row(image, current) for image in images()]
    saved = [_state_row(state, current) for state in states()]
    if as_json:
        typer.echo(json.dumps({"images": rows, "states": saved}, indent=2))
        return
    for row in rows:
        mark = "*" if row["current"] else " "
        typer.echo(
            f"{mark} {row['arch']:8} {row['key']} linux {row['kernel']} python {row['python']} "
            f"{row['size_bytes'] >> 20} MiB {row['directory']}"
        )
    for row in saved:
        mark = "*" if row["current"] else " "
        typer.echo(
            f"{mark} {row['arch']:8} {row['key']} state of {row['image']}, {row['accelerator']}, "
            f"{row['memory_bytes'] >> 20} MiB, {row['cpus']} CPU: {row['size_bytes'] >> 20} MiB {row['file']}"
        )
    if not any(row["current"] for row in rows):
        typer.echo(typed("no image of the current definition yet: `testbed image build`"), err=True)


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


ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="An instruction set, a key, or KEY-ARCH.")]


@app.command()
def inspect(image: ImageArgument, as_json: JsonOption = False) -> None:
    """Show what an image is made of: kernel, Python, kernel arguments, digests, and every package with its version.

    An instruction set alone means the image that guests boot now.

    \b
    Examples:
      testbed image inspect aarch64
      testbed image inspect x86_64 --json | jq '.packages[].name'
    """
    found = _named(image)[0]
    row = _row(found, _current_key())
    row |= {"command_line": list(found.command_line), "digests": dict(found.digests), "packages": found.packages}
    if as_json:
        typer.echo(json.dumps(row, indent=2))
        return
    for name in ("arch", "key", "current", "kernel", "python", "directory"):
        typer.echo(f"{name:14} {row[name]}")
    typer.echo(f"{'size':14} {row['size_bytes'] >> 20} MiB")
    typer.echo(f"{'command line':14} {' '.join(found.command_line)}")
    for name in ("kernel", "initramfs", "root.erofs"):
        typer.echo(f"{name:14} SHA-256 {found.digests.get(name, 'unknown')}")
    typer.echo(f"{'packages':14} {len(found.packages)}")
    for package in found.packages:
        typer.echo(f"  {package['name']} {package['version']}")


@app.command()
def verify(
    image: Annotated[
        str | None, typer.Argument(metavar="[IMAGE]", help="An instruction set, a key, or KEY-ARCH; all if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every byte of images with what was built. The exit code is 1 when something differs.

    \b
    Examples:
      testbed image verify
      testbed image verify aarch64
    """
    from images.store import images

    wanted = _named(image) if image else images()
    found = {each.directory.name: each.damage() for each in wanted}
    if as_json:
        typer.echo(json.dumps([{"image": name, "damage": damage} for name, damage in found.items()], indent=2))
    for name, damage in found.items() if not as_json else ():
        typer.echo(f"{name}: {'damaged' if damage else 'as built'}")
        for line in damage:
            typer.echo(f"  {line}")
    if any(found.values()):
        typer.echo(typed("hint: `testbed image prune --all`, then `testbed image build`"), err=True)
        raise typer.Exit(1)


@app.command()
def prune(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are of use.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove images of other definitions, what killed builds have left, and saved states of no use any more.

    Guests that run from an image keep it until they end.

    \b
    Examples:
      testbed image prune --dry-run
      testbed image prune
      testbed image prune --all
    """
    from images.store import images, remove
    from images.workshop import remove_leftovers
    from testbed.states import states

    current = _current_key()
    freed = 0
    for image in images():
        if everything or image.key != current:
            freed += image.size_bytes
            typer.echo(f"{image.directory.name}: {image.size_bytes >> 20} MiB")
            if not dry_run:
                remove(image)
    for state in states():
        if everything or not _is_of_use(state, current):
            freed += state.size_bytes
            typer.echo(f"state {state.key} ({state.arch}): {state.size_bytes >> 20} MiB")
            if not dry_run:
                state.remove()
    if not dry_run:
        remove_leftovers(lambda line: typer.echo(line, err=True))
    typer.echo(f"{freed >> 20} MiB {'would be' if dry_run else 'are'} freed", err=True)


def _current_key() -> str:
    from images.store import DEFINITION, key_of

    return key_of(DEFINITION)


def _row(image: "Image", current: str) -> dict[str, Any]:
    return {
        "arch": image.arch,
        "key": image.key,
        "current": image.key == current,
        "kernel": image.kernel_release,
        "python": image.python_version,
        "size_bytes": image.size_bytes,
        "directory": str(image.directory),
    }


def _state_row(state: "State", current: str) -> dict[str, Any]:
    return asdict(state) | {
        "current": _is_of_use(state, current),
        "size_bytes": state.size_bytes,
        "file": str(state.file),
    }


def _is_of_use(state: "State", current: str) -> bool:
    from testbed.driver import emulator
    from testbed.errors import HostError
    from testbed.host import build_of

    try:
        return state.image == current and state.emulator == build_of(emulator(state.arch))
    except HostError:  # that QEMU is gone
        return False


def _named(word: str) -> "list[Image]":
    """The images that `word` means. Raises InputError when there is none."""
    from images.store import images
    from orchestrator.errors import InputError
    from orchestrator.vocabulary import nearest

    current = _current_key()
    every = images()
    found = [each for each in every if word in (each.key, each.directory.name)]
    found += [each for each in every if word == each.arch and each.key == current]
    if found:
        return found
    known = [*ARCHITECTURES, *(each.directory.name for each in every)]
    if word in ARCHITECTURES:
        raise InputError(f"found no image for {word} of the current definition", f"`testbed image build {word}`")
    near = nearest(word, known)
    raise InputError(
        f"found no image '{word}', expected an instruction set or a key that `testbed image list` shows",
        f"did you mean '{near}'?" if near else "",
    )
