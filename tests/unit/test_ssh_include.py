from pathlib import Path

import pytest

from orchestrator.commands.ssh_include import install

LINE = 'Include "/state/testbed/*/ssh_config"'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_configuration_is_made_where_there_is_none(home: Path) -> None:
    assert install(LINE) == (home / ".ssh" / "config", True)
    assert (home / ".ssh" / "config").read_text() == f"{LINE}\n"
    assert (home / ".ssh").stat().st_mode & 0o777 == 0o700
    assert (home / ".ssh" / "config").stat().st_mode & 0o777 == 0o600


def test_it_goes_to_the_top_once_and_nothing_else_is_changed(home: Path) -> None:
    (home / ".ssh").mkdir()
    place = home / "dotfiles"
    place.write_text("Host x\n  Port 1\n")
    place.chmod(0o644)
    (home / ".ssh" / "config").symlink_to(place)
    assert install(LINE)[1]
    assert not install(LINE)[1]
    assert place.read_text() == f"{LINE}\nHost x\n  Port 1\n"
    assert place.stat().st_mode & 0o777 == 0o644
    assert (home / ".ssh" / "config").is_symlink()
    assert [path.name for path in home.iterdir() if "config" in path.name] == []
