"""`testbed image`: the guests' kernels and root file systems, and the states saved of guests that booted them."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.options import OfflineOption
from orchestrator.output import typed

if TYPE_CHECKING:
    from images import Image
    from images.cloud.image import CloudImage
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

    current = _current_keys()
    rows = [_row(image, current) for image in images()]
    saved = [_state_row(state, current) for state in states()]
    if as_json:
        typer.echo(json.dumps({"images": rows, "states": saved}, indent=2))
        return
    for row in rows:
        mark = "*" if row["current"] else " "
        what = f"cloud image {row['source']}" if row["source"] else f"linux {row['kernel']} python {row['python']}"
        typer.echo(f"{mark} {row['arch']:8} {row['key']} {what} {row['size_bytes'] >> 20} MiB {row['directory']}")
    for row in saved:
        mark = "*" if row["current"] else " "
        typer.echo(
            f"{mark} {row['arch']:8} {row['key']} state of {row['image']}, {row['accelerator']}, "
            f"{row['memory_bytes'] >> 20} MiB, {row['cpus']} CPU: {row['size_bytes'] >> 20} MiB {row['file']}"
        )
    if not any(row["current"] and not row["source"] for row in rows):
        typer.echo(typed("no image of the current definition yet: `testbed image build`"), err=True)


@app.command()
def build(
    arch: Annotated[list[str] | None, typer.Argument(help="Instruction sets; all when left out.")] = None,
    definition: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="What to build: a definition of the project, or a file of your own."),
    ] = "default",
    offline: OfflineOption = False,
) -> None:
    """Build or fetch the images that are missing, and print where they are.

    \b
    Examples:
      testbed image build
      testbed image build aarch64
      testbed image build --definition numpy
      testbed image build --definition debian.yaml --offline
    """
    from images.store import obtain

    file = _definition(definition)
    for name in arch or ():
        if name not in ARCHITECTURES:
            raise _unknown(name)
    wanted = _described(file, arch or [])
    begin = time.monotonic()
    say = lambda line: typer.echo(f"{time.monotonic() - begin:6.1f} s  {line}", err=True)  # noqa: E731
    for image in obtain(wanted, say, offline=offline, definition=file).values():
        typer.echo(f"{image.arch} {image.directory}")


def _unknown(arch: str) -> Exception:
    """The error for an instruction set that there is no image for."""
    from orchestrator.errors import InputError
    from orchestrator.experiments.vocabulary import nearest  # takes longer to import than a present image to find

    near = nearest(arch, ARCHITECTURES)
    hint = f"did you mean '{near}'?" if near else ""
    return InputError(f"found the instruction set '{arch}', expected {' or '.join(ARCHITECTURES)}", hint)


def _definition(word: str) -> Path:
    """The file of a definition. Raises InputError for one that is not there."""
    from images.store import definitions

    known = definitions()
    if word in known or Path(word).is_file():
        return known.get(word) or Path(word)
    from orchestrator.errors import InputError
    from orchestrator.experiments.vocabulary import nearest  # see `_unknown`

    near = nearest(word, known)
    raise InputError(
        f"found no image definition '{word}', expected {', '.join(known)}, or a file",
        f"did you mean '{near}'?" if near else "docs/images.md shows what such a file says",
    )


def _described(definition: Path, wanted: list[str]) -> list[str]:
    """Those of a definition's architectures that are wanted, or all. Raises InputError for a file that is wrong."""
    from images.store import definitions, says_cloud

    if definition in definitions().values():  # it need not be read before its images are looked for
        return wanted or list(ARCHITECTURES)
    from images.cloud import definition as cloud
    from images.definition import load
    from images.errors import Failure
    from orchestrator.errors import InputError

    try:
        known = list(cloud.load(definition) if says_cloud(definition) else load(definition).architectures)
    except Failure as error:
        raise InputError(error.message, error.hint) from None
    if absent := [name for name in wanted if name not in known]:
        raise InputError(
            f"{definition}: found no {absent[0]} in it, expected {' or '.join(known)}", "add it under `architectures`"
        )
    return wanted or known


ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="An instruction set, a key, or KEY-ARCH.")]


@app.command()
def inspect(image: ImageArgument, as_json: JsonOption = False) -> None:
    """Show what an image is made of: kernel, Python, kernel arguments, digests, and every package with its version.

    Of a cloud image: where it came from, with which digest, and which definitions ask for it.

    An instruction set alone means the image that guests boot now.

    \b
    Examples:
      testbed image inspect aarch64
      testbed image inspect x86_64 --json | jq '.packages[].name'
    """
    from images import Image

    found = _named(image)[0]
    row = _row(found, _current_keys()) | {"digests": dict(found.digests)}
    if isinstance(found, Image):
        row |= {"command_line": list(found.command_line), "packages": found.packages}
    else:
        row |= {
            "checked": found.checked,
            "definitions": list(found.definitions),
            "virtual_bytes": found.virtual_bytes,
        }
    if as_json:
        typer.echo(json.dumps(row, indent=2))
        return
    for name in ("arch", "key", "current", "kernel", "python", "source", "checked", "directory"):
        if row.get(name, "") != "":
            typer.echo(f"{name:14} {row[name]}")
    typer.echo(f"{'size':14} {row['size_bytes'] >> 20} MiB")
    if not isinstance(found, Image):
        typer.echo(f"{'disk':14} {row['virtual_bytes'] >> 20} MiB")
        for definition in found.definitions:
            typer.echo(f"{'definition':14} {definition}")
        return
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
    from images.store import broken, images

    wanted = _named(image) if image else images()
    found = {each.directory.name: each.damage() for each in wanted}
    if image is None:
        found |= {folder.name: [f"{folder}: its record or a file of it is torn or gone"] for folder in broken()}
    if as_json:
        typer.echo(json.dumps([{"image": name, "damage": damage} for name, damage in found.items()], indent=2))
    for name, damage in found.items() if not as_json else ():
        typer.echo(f"{name}: {'damaged' if damage else 'as built'}")
        for line in damage:
            typer.echo(f"  {line}")
    if any(found.values()):
        typer.echo(typed("hint: `testbed image prune --all`; whoever needs an image then makes it anew"), err=True)
        raise typer.Exit(1)


@app.command()
def prune(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are of use.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove images that no definition asks for, damaged ones, what killed builds have left, and states of no use.

    A definition of your own counts while its file is where it was. Guests that run from an image keep it until they
    end.

    \b
    Examples:
      testbed image prune --dry-run
      testbed image prune
      testbed image prune --all
    """
    from images.store import broken, discard, images, remove
    from images.workshop import remove_leftovers
    from testbed.states import states

    current = _current_keys()
    freed = 0
    for folder in broken():
        typer.echo(f"{folder.name}: damaged")
        if not dry_run:
            discard(folder)
    for image in images():
        if everything or not _is_current(image, current):
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


def _current_keys() -> set[str]:
    """Of what the project's own definitions describe."""
    from images.store import definitions, key_of

    return {key_of(definition) for definition in definitions().values()}


def _is_current(image: "Image | CloudImage", current: set[str]) -> bool:
    """Whether a definition asks for it."""
    from images import Image
    from images.store import key_of

    if isinstance(image, Image):
        own = Path(image.definition) if image.definition else None
        return image.key in current or (own is not None and own.is_file() and key_of(own) == image.key)
    from images.cloud.supply import of_use

    return of_use(image)


def _row(image: "Image | CloudImage", current: set[str]) -> dict[str, Any]:
    from images import Image

    kernel, python, source = (
        (image.kernel_release, image.python_version, "") if isinstance(image, Image) else ("", "", image.source)
    )
    return {
        "arch": image.arch,
        "key": image.key,
        "current": _is_current(image, current),
        "kernel": kernel,
        "python": python,
        "source": source,
        "size_bytes": image.size_bytes,
        "directory": str(image.directory),
    }


def _state_row(state: "State", current: set[str]) -> dict[str, Any]:
    return asdict(state) | {
        "current": _is_of_use(state, current),
        "size_bytes": state.size_bytes,
        "file": str(state.file),
    }


def _is_of_use(state: "State", current: set[str]) -> bool:
    from orchestrator.stages.deployment import resident_key
    from testbed.driver import emulator
    from testbed.errors import HostError
    from testbed.host import build_of

    try:
        fits = state.image in current and state.emulator == build_of(emulator(state.arch))
    except HostError:  # that QEMU is gone
        return False
    return fits and state.resident in ("", resident_key(state.image))


def _named(word: str) -> "list[Image | CloudImage]":
    """The images that `word` means. Raises InputError when there is none."""
    from images.store import DEFINITION, images, key_of
    from orchestrator.errors import InputError
    from orchestrator.experiments.vocabulary import nearest

    current = key_of(DEFINITION)
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


def add_to(whole: typer.Typer) -> None:
    """Make the commands of this module commands of `whole`."""
    whole.add_typer(app, name="image")
