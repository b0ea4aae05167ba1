"""One address space: what a thread of one kernel maps, unmaps, protects or moves is so on all kernels."""

import subprocess
from pathlib import Path

import pytest

from tests.local.test_programs import HEAD
from tests.local.test_run_local import ROOT, command, environment, run, summary_of

PAGES = (ROOT / "configs" / "programs" / "mapping.py").read_text()
SCRIPT = HEAD + "workload: {kind: script, file: own.py, threads: {x86: changer, arm: onlooker}, pages: 3}\n"
NATIVE = HEAD + "workload: {kind: native, source: own.c, threads: {x86: a, arm: b}, arguments: [ARGUMENT], pages: 3}\n"
SOURCE = r"""
#include "testbed.h"
#define CHECK(what) do { if (!(what)) { printf("line %d\n", __LINE__); return 1; } } while (0)
int main(int argc, char **argv)
{
    struct testbed *bed = testbed_attach();
    volatile char *shared = bed->memory;
    if (bed->rank == 0)
        shared[5] = 1;
    testbed_barrier();
    CHECK(shared[5] == 1);
    testbed_barrier();
    if (bed->rank == 1) {
        CHECK(!testbed_move(bed->memory, 4096, (char *)bed->memory + 8 * 4096) && errno == 0);
        CHECK(testbed_map((char *)bed->memory + 4096, 4096, 1) == -1 && errno == EEXIST);
        CHECK(testbed_map(bed->memory, 100, 1) == -1 && errno == EINVAL);
        CHECK(testbed_protect(bed->memory, 4096, 0) == -1 && errno == ENOMEM);
        CHECK(!testbed_unmap((char *)bed->memory + 2 * 4096, 4096));
        CHECK(!testbed_protect((char *)bed->memory + 8 * 4096, 4096, 0));
    }
    testbed_barrier();
    CHECK(shared[8 * 4096 + 5] == 1);
    if (bed->rank == 0 && !strcmp(argv[1], "load"))
        return shared[2 * 4096];
    if (bed->rank == 0 && !strcmp(argv[1], "store"))
        shared[8 * 4096] = 1;
    testbed_barrier();
    return 0;
}
"""


@pytest.mark.parametrize(("protocol", "changer"), [("voting", "x86"), ("origin", "x86"), ("voting", "arm")])
def test_what_one_kernel_does_to_the_address_space_is_so_on_all(tmp_path: Path, protocol: str, changer: str) -> None:
    (tmp_path / "own.py").write_text(PAGES)
    text = SCRIPT.replace("link: shm0,", f"link: shm0, trace: true, protocol: {protocol},")
    if changer == "arm":
        text = text.replace("{x86: changer, arm: onlooker}", "{arm: changer, x86: onlooker}")
    summary = summary_of(run(tmp_path, text, "--json"))
    (point,) = summary["points"]
    operations = 5
    refused = 3 if changer == "arm" else 0  # home refuses its own without a message; beyond the region nobody asks
    asked = 5 + refused if changer == "arm" else 0
    rounds = {name: count for name, count in point["messages"].items() if name.startswith("SPACE")}
    expected = {"LOCK": operations + asked, "LOCKED": operations, "OP": operations, "DONE": operations + asked}
    assert rounds == {f"SPACE_{name}": count for name, count in expected.items()}
    assert (Path(summary["results"]) / f"output/1/{changer}.txt").read_text().splitlines() == [
        "map page 0 to write: refused: something is mapped there already",
        "move page 0 to 8: refused: something is mapped there already",
        "protect page 1 to write: refused: something of it is not mapped",
        "unmap page 256: refused: it reaches beyond the region",
    ]
    replayed = command("replay", summary["results"], "--json")
    done = subprocess.run(replayed, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("changed", ["part.memory[2 * PAGE]", "part.memory[9 * PAGE] = 1"])
def test_a_thread_that_touches_what_is_gone_or_protected_is_ended_on_any_kernel(tmp_path: Path, changed: str) -> None:
    (tmp_path / "own.py").write_text(PAGES.replace("part.memory[0] = 77", changed))
    done = run(tmp_path, SCRIPT)
    assert done.returncode == 3
    assert "killed by SIGSEGV" in done.stderr, done.stderr
    line = 1 + next(
        number for number, line in enumerate((tmp_path / "own.py").read_text().splitlines()) if changed in line
    )
    assert f'own.py", line {line} in onlooker' in done.stderr, done.stderr


def test_sizes_that_are_no_whole_pages_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        PAGES.replace("part.map(0, PAGE)\n    part.protect", "part.map(0, 100)\n    part.protect")
    )
    done = run(tmp_path, SCRIPT)
    assert "ValueError: map 100 bytes at 0: expected whole pages of 4096 bytes" in done.stderr


@pytest.mark.parametrize(("argument", "code"), [("stay", 0), ("load", 3), ("store", 3)])
def test_c_maps_and_is_ended_as_well(tmp_path: Path, argument: str, code: int) -> None:
    (tmp_path / "own.c").write_text(SOURCE)
    done = run(tmp_path, NATIVE.replace("ARGUMENT", argument))
    assert done.returncode == code, done.stderr
    assert ("killed by SIGSEGV" in done.stderr) == (code == 3)
