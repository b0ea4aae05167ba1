import platform
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.errors import HostError
from orchestrator.bench import reference
from orchestrator.bench.figures import (
    COMPARED,
    MEANINGS,
    Bench,
    Figure,
    Machine,
    Quantity,
    Ratio,
    Unit,
    boot_parts,
    ratios,
)
from orchestrator.bench.measure import Boot, boots
from orchestrator.bench.run import tell_if_busy
from orchestrator.progress import Progress

_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}  # e_machine of elf(5)


def figure(quantity: Quantity, nodes: tuple[str, ...], median: float) -> Figure:
    return Figure.of(quantity, nodes, Unit.MICROSECONDS, [median])


@given(st.lists(st.floats(0, 1e9), min_size=1))
def test_every_percentile_is_a_value_that_was_measured(samples: list[float]) -> None:
    seen = Figure.of(Quantity.TCP, ["a", "b"], Unit.MICROSECONDS, samples)
    assert {seen.smallest, seen.median, seen.p99} <= set(samples)
    assert seen.smallest <= seen.median <= seen.p99
    assert sum(sample <= seen.median for sample in samples) * 2 >= len(samples)
    assert seen.count == len(samples)


def test_p99_leaves_one_of_a_hundred_out() -> None:
    assert Figure.of(Quantity.TCP, ["a"], Unit.MICROSECONDS, [*range(1, 101)]).p99 == 99
    assert Figure.of(Quantity.TCP, ["a"], Unit.MICROSECONDS, [*range(1, 100)]).p99 == 99


def test_a_figure_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="tcp on a, b: no samples"):
        Figure.of(Quantity.TCP, ["a", "b"], Unit.MICROSECONDS, [])


def test_a_remote_fault_is_compared_with_the_handler_in_c_on_the_waiting_node() -> None:
    figures = [
        figure(Quantity.C_COPY, ("x86",), 150),
        figure(Quantity.C_COPY, ("arm",), 200),
        figure(Quantity.REMOTE_READ, ("x86", "arm"), 600),
        figure(Quantity.REMOTE_READ, ("arm", "x86"), 500),
    ]
    assert ratios(figures) == [
        Ratio(Quantity.REMOTE_READ, Quantity.C_COPY, ("x86", "arm"), 4.0),
        Ratio(Quantity.REMOTE_READ, Quantity.C_COPY, ("arm", "x86"), 2.5),
    ]


def test_migrations_are_compared_with_the_handler_in_c_on_the_node_that_they_go_to() -> None:
    moves = (Quantity.CREATION, Quantity.CLONE, Quantity.RETURN)
    figures = [figure(Quantity.C_COPY, ("x86",), 100), figure(Quantity.C_COPY, ("arm",), 200)]
    figures += [figure(move, ("arm", "x86"), 4000) for move in moves]
    assert ratios(figures) == [Ratio(move, Quantity.C_COPY, ("arm", "x86"), 20.0) for move in moves]


def test_what_was_not_measured_has_no_ratio() -> None:
    assert ratios([figure(Quantity.TCP, ("x86", "arm"), 1000)]) == []


STAGES = {"initramfs": 1.0, "init": 1.5, "network": 1.75, "sshd": 2.0}


def test_the_parts_of_a_boot_add_up_to_it_and_the_rest_is_the_machine_s() -> None:
    parts = boot_parts(3.0, STAGES)
    assert sum(parts.values()) == 3.0
    assert parts == {
        Quantity.BOOT_MACHINE: 1.0,
        Quantity.BOOT_KERNEL: 1.0,
        Quantity.BOOT_INITRAMFS: 0.5,
        Quantity.BOOT_INIT: 0.25,
        Quantity.BOOT_SSHD: 0.25,
    }


def test_a_pair_is_ready_when_its_slower_guest_is() -> None:
    figures = boots(
        {"x86": [Boot(3.0, STAGES), Boot(5.0, STAGES)], "arm": [Boot(4.0, STAGES), Boot(2.5, STAGES)]},
    )
    by_place = {(each.quantity, each.nodes): each for each in figures}
    assert by_place[Quantity.BOOT, ("x86", "arm")].smallest == 4.0
    assert by_place[Quantity.BOOT, ("x86", "arm")].p99 == 5.0
    assert by_place[Quantity.BOOT_MACHINE, ("arm",)].smallest == 0.5
    assert Bench((), 2, tuple(figures)).as_json()["pair_s"] == 4.0
    assert Bench((), 2, ()).as_json()["pair_s"] is None


def test_every_quantity_is_explained() -> None:
    assert set(MEANINGS) == set(Quantity)
    assert {quantity for pair in COMPARED for quantity in pair} <= set(Quantity)


def test_json_names_machines_figures_and_ratios() -> None:
    figures = (figure(Quantity.TCP, ("x86", "arm"), 900), figure(Quantity.RING_POLL, ("x86", "arm"), 9))
    machine = Machine("x86", "x86_64", "tcg", "asked for")
    data = Bench((machine,), 3, figures, {"testbed": "0"}, 1.5).as_json()
    assert data["machines"] == (
        {"name": "x86", "arch": "x86_64", "accelerator": "tcg", "accelerator_reason": "asked for"},
    )
    assert data["figures"][0] == {
        "quantity": "tcp",
        "nodes": ("x86", "arm"),
        "unit": "us",
        "count": 1,
        "median": 900,
        "p99": 900,
        "smallest": 900,
    }
    assert data["ratios"] == [{"numerator": "tcp", "denominator": "ring_poll", "nodes": ("x86", "arm"), "value": 100}]


@pytest.mark.parametrize("arch", sorted(_ELF_MACHINE))
def test_the_reference_is_compiled_for_both_isas_and_needs_no_library(arch: str) -> None:
    binary = reference.compile_reference(arch)
    assert binary[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", binary, 18)[0] == _ELF_MACHINE[arch]
    assert b"ld-linux" not in binary[:4096]  # no PT_INTERP: static


def test_a_missing_compiler_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(HostError) as caught:
        reference.compile_reference("aarch64")
    assert "aarch64-linux-gnu-gcc" in caught.value.message
    assert caught.value.hint == "apt-get install gcc-aarch64-linux-gnu"


def test_what_the_compiler_said_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "fault_reference.c"
    broken.write_text("int main(void) { return missing_name; }\n")
    monkeypatch.setattr(reference, "SOURCE", broken)
    with pytest.raises(HostError, match="missing_name"):
        reference.compile_reference(platform.machine())


@pytest.mark.parametrize(("load", "said"), [(0.9, False), (1.1, True)])
def test_a_busy_host_is_told(load: float, said: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        tell_if_busy(progress, load, 2)
    assert ("other programs run here" in capsys.readouterr().err) == said
