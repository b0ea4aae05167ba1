"""Files that start a night by themselves: of GitHub Actions, GitLab CI, and systemd."""

import os
import pwd
from importlib import resources
from pathlib import Path

FILES = {
    "github": "github.yml",
    "gitlab": "gitlab.yml",
    "service": "testbed-nightly.service",
    "timer": "testbed-nightly.timer",
}
ROOT = Path(__file__).parents[3]


def rendered(name: str) -> str:
    """The text of a template, for this source tree and this user where it names them."""
    text = resources.files(__name__).joinpath(FILES[name]).read_text(encoding="utf-8")
    root = str(ROOT).replace("%", "%%")  # systemd puts something else in for a single one
    command = f"{root}/tb"
    if any(each.isspace() or each in "\"'\\" for each in command):
        command = '"' + command.replace("\\", "\\\\").replace('"', '\\"') + '"'
    user = pwd.getpwuid(os.getuid()).pw_name
    return text.replace("@ROOT@", root).replace("@COMMAND@", command).replace("@USER@", user)
