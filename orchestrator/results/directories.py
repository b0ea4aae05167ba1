"""Result directories: one a run, its name sorts by time, and nothing in it or beside it is ever overwritten.

results/20260131T120000Z-quickstart-4f1c/
    experiment.yaml     the file as it was given
    resolved.yaml       the same by itself: with what it extends, and `--set`, put in, the matrix multiplied out
    run.json            the summary
    events.jsonl        what happened, in order (`orchestrator.results.events`)
    files/HASH/NAME     programs that the workload takes along
    output/POINT/NODE.txt   what they said; in output/POINT/NODE/ the files that commands left
    consoles/NODE.log   what the guest said on its serial console; on the stage `local`, what its process said
    domains/NODE.xml    the machine as libvirt was told to make it
    traces/POINT/NODE.jsonl   with `coherency.trace`: what the node's engine did in that point (`guest.protocol.trace`);
                        of attempts that were repeated in traces/POINT-lost-N
"""

import json
import os
import secrets
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from images.errors import HostError, writing
from orchestrator.errors import InputError
from orchestrator.results.summary import RunSummary

DEFAULT = Path("results")
TRACES = "traces"


class RunDirectory:
    """The directory of one run, while it is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.name
        self.events = path / "events.jsonl"

    @property
    def asked_for(self) -> str:
        """How commands that are given in this folder find the run, now and later."""
        return self.run_id if self.path.parent == DEFAULT.absolute() else shlex.quote(str(self.path))

    @classmethod
    def create(cls, results: Path, experiment: str) -> "RunDirectory":
        """Make a new one. Raises HostError when `results` cannot be written."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        while True:
            path = results.absolute() / f"{stamp}-{experiment}-{secrets.token_hex(2)}"
            try:
                results.mkdir(parents=True, exist_ok=True)
                path.mkdir(mode=0o755)  # fails if it exists: two runs never mix
            except FileExistsError:
                if path.is_dir():
                    continue  # of 20 runs that begin in one second, two draw the same token every 300 times
                raise HostError(
                    f"cannot make the result directory {path}: {results} is a file", "choose another with --results DIR"
                ) from None
            except OSError as error:
                raise HostError(
                    f"cannot make the result directory {path}: {error.strerror}", "choose another with --results DIR"
                ) from None
            return cls(path)

    def keep(self, name: str, content: str) -> Path:
        """Write a file that does not exist yet; `name` may have folders in it."""
        path = self.path / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
        return path

    def keep_bytes(self, name: str, content: bytes) -> None:
        """Write a file that does not exist yet."""
        path = self.path / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(content)

    def keep_output(self, point: int, node: str, output: list[str]) -> None:
        """Keep what a node's programs said in a point, thread by thread."""
        parts = [text if text.endswith("\n") else text + "\n" for text in output]
        self._keep_numbered(f"output/{point + 1}/{node}", ".txt", "".join(parts))

    def keep_collected(self, point: int, node: str, name: str, content: bytes) -> None:
        """Keep a file that a command left on a node; of a repeated attempt under a number."""
        folder, number = f"output/{point + 1}/{node}", 1
        while (self.path / folder / name).exists():
            number += 1
            folder = f"output/{point + 1}/{node}.{number}"
        self.keep_bytes(f"{folder}/{name}", content)

    def keep_console(self, node: str, content: str) -> Path:
        """Keep what a node said; of a machine that is booted again for another testbed of the run, under a number."""
        return self._keep_numbered(f"consoles/{node}", ".log", content)

    def keep_domain(self, node: str, xml: str) -> Path:
        """Keep a node's domain XML, numbered in the same way."""
        return self._keep_numbered(f"domains/{node}", ".xml", xml)

    def keep_trace(self, point: int, node: str, header: dict[str, Any], entries: list[Any]) -> Path:
        """Keep what a node's engine did in a point: the header, then an event a line."""
        lines = (json.dumps(line, separators=(",", ":")) for line in (header | {"node": node}, *entries))
        return self.keep(f"{TRACES}/{point + 1}/{node}.jsonl", "\n".join(lines) + "\n")

    def set_traces_aside(self, point: int) -> None:
        """Those of an earlier attempt at the point make room, under another name."""
        traces = self.path / TRACES / str(point + 1)
        number = 1
        while (aside := traces.with_name(f"{point + 1}-lost-{number}")).exists():
            number += 1
        if traces.exists():
            traces.rename(aside)

    def _keep_numbered(self, stem: str, ending: str, content: str) -> Path:
        name, number = f"{stem}{ending}", 1
        while (self.path / name).exists():
            number += 1
            name = f"{stem}.{number}{ending}"
        return self.keep(name, content)

    def write_summary(self, summary: RunSummary) -> None:
        """Put run.json in place."""
        self.put_in_place("run.json", json.dumps(summary.as_json(), indent=2) + "\n")

    def put_in_place(self, name: str, content: str) -> None:
        """Write a file, or another instead of it, in one step: a reader sees the old one or the new one, whole."""
        draft = self.path / f".{name}"
        target = self.path / name
        try:
            with writing(target):
                with draft.open("w", encoding="utf-8") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)


def all_runs(results: Path) -> list[Path]:
    """The directories of all runs, the oldest first. Of those that began in the same second, by their first file."""
    found = [path.parent for path in results.glob("*/run.json")]
    return sorted(found, key=lambda path: (path.name.partition("-")[0], _born_ns(path), path.name))


def _born_ns(run: Path) -> int:
    try:
        return (run / "experiment.yaml").stat().st_mtime_ns
    except OSError:
        return 0


def find(results: Path, run: str) -> Path:
    """The directory of the run called `run`: its id, an end of it, `last`, or a path. Raises InputError."""
    if (Path(run) / "run.json").is_file():
        return Path(run)
    known = [path.name for path in all_runs(results)]
    if run == "last" and known:
        return results / known[-1]
    fitting = [name for name in known if name.startswith(run) or name.endswith(run)]
    if len(fitting) == 1:
        return results / fitting[0]
    found = f"{len(fitting)} runs called '{run}' in {results}/"
    raise InputError(
        f"found {found}, expected one" + (": " + ", ".join(fitting[:5]) if fitting else ""),
        f"the latest are {', '.join(known[-3:])}" if known else f"there are no runs in {results}/ yet; see --results",
    )


def read_summary(directory: Path) -> dict[str, Any]:
    """run.json of a run, as data. Raises InputError when it cannot be understood."""
    path = directory / "run.json"
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: found {error}, expected a run's summary") from None
    if not isinstance(data, dict) or "outcome" not in data:
        raise InputError(f"{path}: found other JSON, expected a run's summary")
    return data
