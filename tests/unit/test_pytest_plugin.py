"""The fixture `testbed` and its options, with guests that are only thought of. tests/vm has real ones."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.unit.test_experiment_errors import GOOD

ROOT = Path(__file__).resolve().parents[2]
MODULE = "orchestrator.pytest_plugin"
TESTS = """\
def test_one(testbed):
    assert testbed.file.stem in ("pair", "other")

def test_other(testbed):
    assert 0

def test_without():
    pass
"""
THOUGHT = """\
import os, signal, sys
from pathlib import Path
import orchestrator.live as live_module
from images.errors import HostError
from testbed import GuestError

class Thought(live_module.LiveTestbed):
    def __init__(self, file, *others):
        self.file, self.others = file, others
        print("up", file.stem, *others[:1], file=sys.__stderr__, flush=True)

    def last_words(self):
        return [("console of arm (its end)", "kernel said this")]

    def down(self):
        print("down", self.file.stem, file=sys.__stderr__, flush=True)

def refuse(*_):
    raise {error}

live_module.live = {live}
"""


def session(folder: Path, *words: str, tests: str = TESTS, live: str = "Thought", error: str = "None",
            ini: str = "") -> subprocess.CompletedProcess[str]:  # fmt: skip
    """pytest in a process of its own, where whatever comes up is only said to."""
    (folder / "test_inner.py").write_text(tests)
    (folder / "conftest.py").write_text(THOUGHT.replace("{live}", live).replace("{error}", error))
    for name in ("pair", "other"):
        (folder / f"{name}.yaml").write_text(GOOD.replace("name: pair", f"name: {name}"))
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # others cost a second each time
    line = [sys.executable, "-m", "pytest", "-s", "-rs", "-p", "no:cacheprovider", "-p", MODULE, *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60, env=environment)


def moments(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith(("up", "down"))]


def test_whoever_installs_the_project_has_the_plugin_and_pays_little_for_it() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"testbed": MODULE}
    code = f"import sys, {MODULE}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert [name for name in ("pydantic", "yaml", "libvirt", "paramiko", "rich", "typer") if name in loaded] == []


def test_guests_are_up_once_and_a_test_that_fails_shows_their_consoles(tmp_path: Path) -> None:
    done = session(tmp_path, "--testbed-config", "pair.yaml", "--testbed-accel", "tcg")
    assert moments(done) == ["up pair tcg", "down pair"]
    assert "1 failed, 2 passed" in done.stdout
    assert done.stdout.count("console of arm (its end)") == 1
    assert "kernel said this" in done.stdout


def test_tests_run_on_each_of_several_files_one_after_the_other(tmp_path: Path) -> None:
    done = session(tmp_path, "-v", "--testbed-config", "pair.yaml", "--testbed-config", "other.yaml")
    assert moments(done) == ["up pair None", "down pair", "up other None", "down other"]
    assert "test_one[pair]" in done.stdout
    assert "test_one[other]" in done.stdout
    assert "2 failed, 3 passed" in done.stdout


def test_the_ini_file_names_files_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    done = session(tmp_path, "--rootdir", "..", ini="testbed_config = pair.yaml")
    assert moments(done) == ["up pair None", "down pair"]
    done = session(tmp_path, "--testbed-config", "other.yaml", ini="testbed_config = pair.yaml")
    assert moments(done) == ["up other None", "down other"]


def test_without_a_file_tests_of_guests_are_skipped_and_say_what_to_give(tmp_path: Path) -> None:
    done = session(tmp_path)
    assert (done.returncode, moments(done)) == (0, [])
    assert "1 passed, 2 skipped" in done.stdout
    assert "no live guests: neither --testbed-config FILE nor testbed_config in the ini-file was given" in done.stdout


def test_a_wrong_file_ends_pytest_before_anything_is_collected(tmp_path: Path) -> None:
    done = session(tmp_path, "--testbed-config", "gone.yaml")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --testbed-config: " in done.stderr
    assert "gone.yaml" in done.stderr
    (tmp_path / "bad.yaml").write_text(GOOD.replace("x86_64", "x86-64"))
    done = session(tmp_path, "--testbed-config", "bad.yaml")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "found 'x86-64', expected x86_64 or aarch64" in done.stderr


HOST = 'HostError("no QEMU for aarch64", "apt-get install it")'


def test_a_host_that_cannot_start_guests_skips_their_tests_unless_they_are_required(tmp_path: Path) -> None:
    done = session(tmp_path, "--testbed-config", "pair.yaml", live="refuse", error=HOST)
    assert (done.returncode, "1 passed, 2 skipped" in done.stdout) == (0, True)
    assert "this host cannot start the guests: " in done.stdout
    assert "no QEMU for aarch64" in done.stdout
    done = session(tmp_path, "--testbed-config", "pair.yaml", "--testbed-required", live="refuse", error=HOST)
    assert (done.returncode, "1 passed, 2 errors" in done.stdout) == (1, True)
    assert "no QEMU for aarch64\nhint: apt-get install it" in done.stdout


def test_guests_that_do_not_come_up_are_an_error_of_the_tests(tmp_path: Path) -> None:
    error = 'GuestError("node arm has ended", "look")'
    done = session(tmp_path, "--testbed-config", "pair.yaml", live="refuse", error=error)
    assert (done.returncode, "1 passed, 2 errors" in done.stdout) == (1, True)
    assert "pair.yaml: node arm has ended\nhint: look" in done.stdout


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_guests_are_taken_down_when_the_session_is_stopped(tmp_path: Path, name: str) -> None:
    # Whoever runs these tests in the background ignores SIGINT, and so would the session.
    tests = "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    tests += f"def test_it(testbed):\n    os.kill(os.getpid(), signal.{name})\n"
    done = session(tmp_path, "--testbed-config", "pair.yaml", tests=tests + "    signal.pause()\n")
    assert moments(done) == ["up pair None", "down pair"]
    assert done.returncode == {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": pytest.ExitCode.INTERRUPTED}[name]
    assert name == "SIGINT" or f"stopped by {name}" in done.stdout + done.stderr


def test_a_fixture_of_the_same_name_takes_its_place(tmp_path: Path) -> None:
    tests = (
        "import pytest\n@pytest.fixture\ndef testbed():\n    return 1\ndef test_it(testbed):\n    assert testbed != 1\n"
    )
    done = session(tmp_path, tests=tests)
    assert "1 failed" in done.stdout
    assert "console of" not in done.stdout
