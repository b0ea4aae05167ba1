import subprocess
from pathlib import Path

import pytest

from testbed import ssh_config
from testbed.keys import KeyPair, write_private


def settings(folder: Path, node: str) -> dict[str, str]:
    """What the real ssh makes of the configuration."""
    said = subprocess.run(
        ["ssh", "-G", *ssh_config.command(folder, f"{node}.pair", "")[1:]], capture_output=True, text=True, check=True
    ).stdout
    return dict(line.partition(" ")[::2] for line in said.splitlines())


@pytest.mark.parametrize("name", ["plain", "with blank", "100%done"])
def test_ssh_takes_the_configuration_as_it_is_meant(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    ssh_config.write(folder, "pair", {"x86": 40001, "arm": 40002}, folder)
    assert (folder / "ssh_config").stat().st_mode & 0o777 == 0o600
    for node, port in (("x86", "40001"), ("arm", "40002")):
        found = settings(folder, node)
        assert (found["hostname"], found["port"], found["user"]) == ("127.0.0.1", port, "root")
        assert found["stricthostkeychecking"] == "true"
        assert found["hostkeyalias"] == node
        assert found["controlmaster"] == "false"
        assert found["identitiesonly"] == "yes"
        assert found["globalknownhostsfile"] == "/dev/null"
        # `-G` shows file names as they were written, before %% becomes %.
        assert found["userknownhostsfile"].strip('"').replace("%%", "%") == str(folder / "known_hosts")
        assert found["identityfile"].strip('"').replace("%%", "%") == str(folder / "id_ed25519")


def test_an_include_knows_the_nodes_of_every_testbed_whatever_else_the_user_has_set(tmp_path: Path) -> None:
    state = tmp_path / 'my "own" [state] *'
    for testbed, number in (("one", 40001), ("two", 40002)):
        (state / testbed).mkdir(parents=True)
        ssh_config.write(state / testbed, testbed, {"x86": number}, tmp_path / testbed)
    config = tmp_path / "config"
    config.write_text(f"{ssh_config.include(state)}\nHost *\n  Port 1\n  ProxyCommand evil\n  ForwardAgent yes\n")
    for host, port in (("x86.one", "40001"), ("x86.two", "40002")):
        said = subprocess.run(["ssh", "-G", "-F", config, host], capture_output=True, text=True, check=True).stdout
        found = dict(line.partition(" ")[::2] for line in said.splitlines())
        assert (found["port"], found["hostname"]) == (port, "127.0.0.1")
        assert (found.get("proxycommand", "none"), found["forwardagent"]) == ("none", "no")
    said = subprocess.run(["ssh", "-G", "-F", config, "x86.three"], capture_output=True, text=True, check=True).stdout
    assert "port 1\n" in said


def test_a_line_for_the_node_cannot_become_an_option_of_ssh(tmp_path: Path) -> None:
    command = ssh_config.command(tmp_path, "x86.pair", "-oProxyCommand=evil a")
    assert command[3:] == ["x86.pair", "--", "-oProxyCommand=evil a"]


def test_keys_are_made_anew_and_openssh_reads_them(tmp_path: Path) -> None:
    one, two = KeyPair.generate(), KeyPair.generate()
    assert one.public != two.public
    file = tmp_path / "key"
    write_private(file, one.private)
    assert file.stat().st_mode & 0o777 == 0o600
    said = subprocess.run(["ssh-keygen", "-y", "-f", file], capture_output=True, text=True, check=True).stdout
    assert said.split()[:2] == one.public.split()
    assert one.public.startswith("ssh-ed25519 ")


def test_known_hosts_go_by_the_nodes_name(tmp_path: Path) -> None:
    assert (
        ssh_config.known_hosts({"x86": "ssh-ed25519 A", "arm": "ssh-ed25519 B"})
        == "arm ssh-ed25519 B\nx86 ssh-ed25519 A\n"
    )
