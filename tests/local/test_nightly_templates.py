"""Templates that start nights: what they are written in is right, and their very commands do what they are for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from images.store import store
from orchestrator.experiments.durations import seconds_of
from orchestrator.nightly import templates
from tests.local.test_run_local import QUICK, ROOT, environment

STEP = "The night"
TB = """\
#!/bin/sh
# The night itself is a small one of this host; all else is as it stands.
[ "$1" != nightly ] || set -- "$@" quick.yaml --stage local
exec {python} -m orchestrator "$@"
"""


def github() -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load(templates.rendered("github"))["jobs"]["nightly"]
    return job


def gitlab() -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load(templates.rendered("gitlab"))["nightly"]
    return job


@pytest.mark.parametrize(("name", "schema"), [("github", "vendor.github-workflows"), ("gitlab", "vendor.gitlab-ci")])
def test_they_are_what_their_ci_takes(tmp_path: Path, name: str, schema: str) -> None:
    text = templates.rendered(name)
    for number, content in enumerate((text, text.replace("timeout", "timuot"))):
        (tmp_path / f"{number}.yml").write_text(content)
    line = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    good, bad = (
        subprocess.run([*line, tmp_path / f"{number}.yml"], capture_output=True, text=True) for number in (0, 1)
    )
    assert good.returncode == 0, good.stdout
    assert bad.returncode == 1


@pytest.mark.parametrize("which", ["github", "gitlab"])
def test_their_commands_run_a_night_and_leave_what_is_uploaded(tmp_path: Path, which: str) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "tb").write_text(TB.format(python=sys.executable))
    (tmp_path / "tb").chmod(0o755)
    if which == "github":
        script = [step["run"] for step in github()["steps"] if step.get("run", "").startswith("./tb")]
        uploaded = github()["steps"][-1]["with"]["path"].split()
    else:
        script = gitlab()["script"]
        uploaded = gitlab()["artifacts"]["paths"]
    assert len(script) == 2
    summary = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    for line in script:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", line], cwd=tmp_path, env=environment() | summary, timeout=100
        )
        assert done.returncode == 0
    assert (tmp_path / "summary.md").read_text().startswith("# Night of ")
    missing = [path for path in uploaded if not list(tmp_path.glob(path))]
    assert [path.strip("/") for path in missing] == ["results/*/evidence"]  # of machines that did not come up


def test_the_budget_ends_before_the_job_and_the_images_that_are_kept_are_where_they_are_built() -> None:
    (night,) = [step["run"] for step in github()["steps"] if step.get("name") == STEP]
    words = night.split()
    budget_s = seconds_of(words[words.index("--budget") + 1], "--budget")
    assert budget_s + 1800 <= github()["timeout-minutes"] * 60
    assert budget_s + 1800 <= seconds_of(gitlab()["timeout"], "timeout")
    kept = github()["steps"][2]["with"]["path"].split()
    code = "from images.store import store; print(store())"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")} | {"HOME": "/there"}
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True)
    assert found.stdout.strip().replace("/there", "~") in kept
    assert store().name == gitlab()["cache"][0]["paths"][0].strip("/").rpartition("/")[2]


@pytest.mark.parametrize("root", ["/srv/testbed", "/srv/a tree of 100%"])
def test_systemd_takes_the_units(tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "ROOT", Path(root))
    service, timer = templates.rendered("service"), templates.rendered("timer")
    assert "@" not in service + timer
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    # What it starts need not be there to be verified in all else.
    (tmp_path / "testbed-nightly.service").write_text(service)
    (tmp_path / "testbed-nightly.timer").write_text(timer)
    units = sorted(tmp_path.iterdir())
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "testbed-nightly" in line]
    assert all(f"{root}/tb is not executable" in line for line in complaints), complaints
    assert len(complaints) == 1
