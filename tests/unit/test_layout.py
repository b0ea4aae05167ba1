"""The shape of the tree: who may import whom, how large a module may grow, what no file may hold."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("guest", "images", "orchestrator", "testbed", "tests")

MAY_IMPORT = {
    "guest": {"guest"},
    "images": {"images"},
    "testbed": {"testbed", "images"},
    "orchestrator": {"orchestrator", "testbed", "images", "guest"},
}
FLOORS = {
    "guest": ("protocol", "link", "memory", "workloads", "programs", "daemon", "runs", "bench"),
    "orchestrator": (
        "experiments", "histories", "checker", "doctor", "results", "simulator", "stages", "report", "bench", "litmus",
        "nightly", "commands",
    ),
}  # fmt: skip
"""The folders of a package from the ground up: each may import those below it; modules beside them, all may."""
HOST_MAY_IMPORT_OF_GUEST = (
    "guest.errors",
    "guest.protocol",
    "guest.memory.samples",
    "guest.memory.reserved",
    "guest.link.segment",
    "guest.synchronization",
    "guest.workloads",
)
"""The engine, the layout of the segment, what a workload stores where, and how threads synchronise whatever is around
them, are the same on both sides; all else of guest/ needs a guest around it."""

ENGINE_MAY_IMPORT = {
    "abc", "bisect", "collections", "dataclasses", "enum", "functools", "guest", "heapq", "itertools", "operator",
    "struct", "types", "typing",
}  # fmt: skip
"""No clock, no randomness, no I/O, no logging: what is not here, an engine cannot reach."""

MODULE_LINES = 500
FUNCTION_LINES = 70


@cache
def files() -> tuple[Path, ...]:
    """All files of the tree that are, or could be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def modules(*folders: str) -> list[Path]:
    wanted = folders or OURS
    return [path for path in files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in wanted]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything the module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def found(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_arrows_between_folders_point_one_way(folder: str) -> None:
    wrong = [
        found(path, line, name)
        for path in modules(folder)
        for line, name in imports(path)
        if (top := name.partition(".")[0]) in OURS and top not in MAY_IMPORT[folder]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", FLOORS)
def test_arrows_between_folders_of_a_package_point_down(package: str) -> None:
    floors, wrong, seen = FLOORS[package], [], set()
    for path in modules(package):
        folder, *rest = path.relative_to(ROOT / package).parts
        if not rest:
            continue
        seen.add(folder)
        for line, name in imports(path):
            to = name.removeprefix(f"{package}.").partition(".")[0]
            if name.startswith(f"{package}.") and to in floors and floors.index(to) > floors.index(folder):
                wrong.append(found(path, line, name))
    assert seen == set(floors)
    assert wrong == []


def test_nothing_but_the_command_line_imports_commands() -> None:
    wrong = [
        found(path, line, name)
        for path in modules("orchestrator")
        if path.relative_to(ROOT / "orchestrator").parts[0] not in ("commands", "cli.py")
        for line, name in imports(path)
        if name.startswith("orchestrator.commands")
    ]
    assert wrong == []


def test_a_guest_needs_the_standard_library_alone() -> None:
    wrong = [
        found(path, line, name)
        for path in modules("guest")
        for line, name in imports(path)
        if (top := name.partition(".")[0]) != "guest" and top not in sys.stdlib_module_names
    ]
    assert wrong == []


def test_the_host_takes_only_what_needs_no_guest_from_the_guest_side() -> None:
    wrong = [
        found(path, line, name)
        for path in modules("orchestrator")
        for line, name in imports(path)
        if name.startswith("guest.") and not name.startswith(HOST_MAY_IMPORT_OF_GUEST)
    ]
    assert wrong == []


def test_engines_cannot_reach_clock_randomness_or_io() -> None:
    engines = [path for path in modules("guest") if path.relative_to(ROOT).parts[1] == "protocol"]
    assert engines
    wrong = [
        found(path, line, name)
        for path in engines
        for line, name in imports(path)
        if name.partition(".")[0] not in ENGINE_MAY_IMPORT
        or (name.startswith("guest.") and not name.startswith(("guest.errors", "guest.protocol")))
    ]
    assert wrong == []


def test_no_asyncio_in_the_guest() -> None:
    """Its import alone takes most of a second in an emulated guest."""
    wrong = [
        found(path, line, name)
        for path in modules("guest")
        for line, name in imports(path)
        if name.partition(".")[0] == "asyncio"
    ]
    assert wrong == []


def test_modules_fit_on_a_few_screens() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in modules()}
    assert [found(path, length, "too long") for path, length in lengths.items() if length > MODULE_LINES] == []


def test_functions_fit_on_a_screen() -> None:
    wrong = [
        found(path, node.lineno, f"{node.name} has {length} lines")
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert wrong == []


def test_every_folder_says_what_it_promises() -> None:
    packages = [path for path in modules(*MAY_IMPORT) if path.name == "__init__.py"]
    silent = [
        str(path.relative_to(ROOT))
        for path in packages
        if len((ast.get_docstring(ast.parse(path.read_text())) or "").split()) < 5
    ]
    assert silent == []


def test_names_say_what_a_thing_is() -> None:
    vague = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)")
    assert [str(path.relative_to(ROOT)) for path in modules() if vague.search(path.stem)] == []


def test_tests_wait_for_events_and_never_sleep() -> None:
    wrong = [
        found(path, node.lineno, "sleeps")
        for path in modules("tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr == "sleep")
            or (isinstance(node.func, ast.Name) and node.func.id == "sleep")
        )
    ]
    assert wrong == []


def test_no_file_names_a_host_to_download_from_or_somebody_s_home() -> None:
    """Where packages come from is the machine's configuration, not ours; a path of one desk works on no other.

    The addresses that remain are names: of formats, and of the page that explains one.
    """
    names = (
        "http://libvirt.org/schemas/",
        "http://www.w3.org/",
        "https://json-schema.org/",
        "https://keepachangelog.com/",
    )
    foreign = re.compile(r"https?://\w[\w.-]*/?\w*/?|(?<![\w.~-])/home/\w+/\w")
    wrong = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture or an archive
        wrong += [
            found(path, number, line)
            for number, line in enumerate(text.splitlines(), 1)
            if any(not match[0].startswith(names) for match in foreign.finditer(line))
        ]
    assert wrong == []
