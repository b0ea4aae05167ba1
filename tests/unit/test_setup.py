"""What ./tb does to a machine: only what is missing, one at a time, and torn set-ups are mended.

The real script runs in a tree of its own. The programs it calls to change a machine are replaced by recorders.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["run", "a file.yaml", "--json", "*", "$HOME"]

# Stands in for the distribution's interpreter: `-m venv DIR` makes DIR with a pip that fails when told to.
PYTHON = """#!/bin/bash
echo "python $*" >>"$RECORD"
dir="${@: -1}"
[[ $* == *--clear* ]] && rm -rf "$dir"
mkdir -p "$dir/bin"
cat >"$dir/bin/python" <<'END'
#!/bin/bash
echo "pip $*" >>"$RECORD"
echo 'what pip prints'
[[ ! -e $FAIL_PIP ]] || { echo 'no matching distribution'; exit 1; }
END
for name in testbed tox; do
    printf '#!/bin/bash\\necho "$TESTBED_COMMAND" >"$RECORD.typed"
echo "$(basename "$0")"; printf "<%%s>" "$@"; exit 7\\n' >"$dir/bin/$name"
done
chmod +x "$dir/bin/"*
"""
DPKG_QUERY = """#!/bin/bash
echo dpkg-query >>"$RECORD"
while [[ $1 != -- ]]; do shift; done
shift
for name; do [[ " $ABSENT " == *" $name "* ]] || echo "installed $name"; done
"""
APT_GET = """#!/bin/bash
echo "apt-get $*" >>"$RECORD"
[[ ! -e /proc/$$/fd/9 ]] || echo holds-the-lock >>"$RECORD"
[[ $* != *install* || -z $FAIL_APT ]] || { echo 'E: Unable to locate package'; exit 100; }
"""
SUDO = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""


@dataclass(frozen=True)
class Tree:
    """A copy of what ./tb needs, at a path with spaces, and the record of what it called."""

    path: Path
    programs: Path

    def environment(self, **extra: str) -> dict[str, str]:
        record = {"RECORD": str(self.path.parent / "record"), "FAIL_PIP": str(self.path.parent / "fail-pip")}
        record["TMPDIR"] = str(self.path.parent)
        return {"PATH": f"{self.programs}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", **record, **extra}

    def tb(self, *words: str, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.path / "tb", *words],
            cwd=cwd,
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self, program: str) -> list[str]:
        """Arguments of the calls so far, and forgets nothing."""
        record = self.path.parent / "record"
        lines = record.read_text().splitlines() if record.exists() else []
        return [line.removeprefix(program).strip() for line in lines if line.split()[0] == program]


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    path, programs = tmp_path / "a tree of mine", tmp_path / "programs"
    path.mkdir()
    programs.mkdir()
    for name in ("pyproject.toml", "packages.txt"):
        shutil.copy(ROOT / name, path)
    script, replaced = re.subn(
        r"^python=/usr/bin/python3\b", f"python={programs}/python3", (ROOT / "tb").read_text(), flags=re.MULTILINE
    )
    assert replaced == 1
    program(path, "tb", script)
    program(programs, "python3", PYTHON)
    program(programs, "dpkg-query", DPKG_QUERY)
    program(programs, "apt-get", APT_GET)
    program(programs, "sudo", SUDO)
    program(programs, "getent", "#!/bin/bash\nexit 0\n")  # the user libvirt-qemu exists
    return Tree(path, programs)


def test_alone_it_prints_help_and_touches_nothing(tree: Tree) -> None:
    done = tree.tb()
    assert done.returncode == 0
    assert "./tb run configs/quickstart.yaml" in done.stdout
    assert tree.calls("dpkg-query") == []
    assert not (tree.path / ".venv").exists()


def test_words_reach_testbed_as_they_are_and_its_exit_code_comes_back(tree: Tree, tmp_path: Path) -> None:
    done = tree.tb(*WORDS, cwd=tmp_path)
    assert done.stdout == "testbed\n" + "".join(f"<{word}>" for word in WORDS)
    assert done.returncode == 7
    assert (tmp_path / "record.typed").read_text() == f"{tree.path}/tb\n"  # what hints are to name


def test_the_word_test_means_tox(tree: Tree) -> None:
    assert tree.tb("test", "-e", "unit").stdout == "tox\n<run><-e><unit>"


def test_a_link_to_it_works(tree: Tree, tmp_path: Path) -> None:
    link = tmp_path / "bin-tb"
    link.symlink_to(tree.path / "tb")
    done = subprocess.run([link, "ps"], env=tree.environment(), capture_output=True, text=True)
    assert done.stdout == "testbed\n<ps>", done.stderr


def test_set_up_is_silent_on_standard_output(tree: Tree) -> None:
    done = tree.tb("ps", ABSENT="gcc")
    assert done.stdout == "testbed\n<ps>"
    assert "installing 1 system packages: gcc" in done.stderr
    assert "what pip prints" not in done.stderr


def test_only_missing_packages_are_installed_by_one_look(tree: Tree) -> None:
    tree.tb("ps", ABSENT="qemu-system-arm zstd")
    assert len(tree.calls("dpkg-query")) == 2  # before the lock and under it
    installs = [call for call in tree.calls("apt-get") if " install " in call]
    assert len(installs) == 1
    assert installs[0].endswith("install --yes --no-install-recommends qemu-system-arm zstd")


@pytest.mark.parametrize(("distribution", "asked"), [("debian", True), ("ubuntu", False)])
def test_what_tests_alone_need_is_installed_for_them_a_browser_where_it_is_a_package(
    tree: Tree, tmp_path: Path, distribution: str, asked: bool
) -> None:
    (tmp_path / "os-release").write_text(f'NAME="Any"\nID={distribution}\n')
    script = (tree.path / "tb").read_text()
    assert script.count("os_release=/etc/os-release") == 1
    (tree.path / "tb").write_text(script.replace("/etc/os-release", f"'{tmp_path / 'os-release'}'"))
    tree.tb("ps", ABSENT="chromium git")
    assert tree.calls("apt-get") == []
    tree.tb("test", ABSENT="chromium git")
    installs = [call for call in tree.calls("apt-get") if " install " in call]
    assert [call.partition("recommends ")[2] for call in installs] == ["chromium git" if asked else "git"]


def test_the_second_call_does_nothing(tree: Tree) -> None:
    tree.tb("ps")
    before = tree.calls("python"), tree.calls("pip"), tree.calls("apt-get")
    done = tree.tb("ps")
    assert (tree.calls("python"), tree.calls("pip"), tree.calls("apt-get")) == before
    assert done.stderr == ""
    assert len(tree.calls("dpkg-query")) == 3  # two of the first call, one of the second


@pytest.mark.parametrize("changed", ["packages.txt", "pyproject.toml", "tb"])
def test_a_look_is_taken_when_something_changed_since_the_last_one(tree: Tree, changed: str) -> None:
    for _ in range(4):
        tree.tb("ps")
    assert len(tree.calls("dpkg-query")) == 3  # the second call found all there; the others believed it
    with (tree.path / changed).open("a") as file:
        file.write("\n# a line more\n")
    tree.tb("ps")
    assert len(tree.calls("dpkg-query")) > 3


def test_tests_and_another_user_look_for_themselves(tree: Tree) -> None:
    for _ in range(3):
        tree.tb("ps")
    tree.tb("test")
    assert len(tree.calls("dpkg-query")) == 4
    (tree.path / ".venv/tb-looked").write_text("65534 elsewhere\n")
    tree.tb("ps")
    assert len(tree.calls("dpkg-query")) == 5


def test_a_changed_project_file_brings_the_environment_up_to_date(tree: Tree) -> None:
    tree.tb("ps")
    with (tree.path / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    assert "pyproject.toml changed" in tree.tb("ps").stderr
    assert len(tree.calls("pip")) == 2
    assert "--clear" not in tree.calls("python")[1]


def test_a_moved_tree_gets_an_environment_from_scratch(tree: Tree, tmp_path: Path) -> None:
    tree.tb("ps")
    moved = Tree(tree.path.rename(tmp_path / "elsewhere"), tree.programs)
    assert moved.tb("ps").returncode == 7
    assert "--clear" in moved.calls("python")[1]


def test_a_torn_environment_is_made_anew_by_the_next_call(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "fail-pip").touch()
    failed = tree.tb("ps")
    assert failed.returncode == 3
    assert failed.stdout == ""
    assert "no matching distribution" in failed.stderr
    assert "hint:" in failed.stderr
    (tmp_path / "fail-pip").unlink()
    assert tree.tb("ps").returncode == 7
    assert "--clear" in tree.calls("python")[1]


def test_a_failed_installation_names_the_command_to_run_by_hand(tree: Tree) -> None:
    failed = tree.tb("ps", ABSENT="gcc", FAIL_APT="1")
    assert failed.returncode == 3
    assert "E: Unable to locate package" in failed.stderr
    assert "apt-get update && apt-get install --no-install-recommends gcc" in failed.stderr


def test_without_root_and_sudo_it_names_the_command_to_run_as_root(tree: Tree) -> None:
    """Runs as the user nobody when the tests are root, on a PATH that has no sudo."""
    few = tree.programs.parent / "few"
    few.mkdir()
    for name in ("bash", "dirname", "readlink", "sha256sum", "flock", "id", "env", "cut"):
        (few / name).symlink_to(shutil.which(name) or name)
    for name in ("dpkg-query", "apt-get", "getent"):
        (few / name).symlink_to(tree.programs / name)
    for folder in (tree.path, *tree.path.parents):
        if folder.owner() == "root" and os.geteuid() == 0 and "pytest" in str(folder):
            folder.chmod(0o755)
    done = subprocess.run(
        [tree.path / "tb", "ps"],
        env=tree.environment(PATH=str(few), ABSENT="gcc", RECORD="/dev/null"),
        user="nobody" if os.geteuid() == 0 else None,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert "there is no sudo here" in done.stderr
    assert "as root: apt-get update && apt-get install --no-install-recommends gcc" in done.stderr


def test_two_at_once_set_up_once(tree: Tree) -> None:
    both = [
        subprocess.Popen(
            [tree.path / "tb", "ps"], env=tree.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    assert [one.communicate(timeout=60)[0] for one in both] == [b"testbed\n<ps>"] * 2
    assert len(tree.calls("python")) == 1


def test_a_daemon_that_a_package_starts_cannot_keep_the_lock(tree: Tree) -> None:
    tree.tb("ps", ABSENT="gcc")
    assert len(tree.calls("apt-get")) == 2
    assert tree.calls("holds-the-lock") == []


def test_another_distribution_is_told_so(tree: Tree) -> None:
    (tree.programs / "dpkg-query").unlink()
    few = tree.programs.parent / "few"
    few.mkdir()
    for name in ("bash", "dirname", "readlink"):
        (few / name).symlink_to(shutil.which(name) or name)
    done = tree.tb("ps", PATH=str(few))
    assert done.returncode == 3
    assert "no Debian or Ubuntu" in done.stderr


def test_every_package_has_an_isa_and_a_reason() -> None:
    lines = [line.split(maxsplit=2) for line in (ROOT / "packages.txt").read_text().splitlines() if line.strip()]
    packages = [line for line in lines if not line[0].startswith("#")]
    assert all(len(line) == 3 and line[1] in {"any", "x86_64", "aarch64", "tests", "debian-tests"} for line in packages)
    names = [line[0] for line in packages]
    assert len(names) == len(set(names))
