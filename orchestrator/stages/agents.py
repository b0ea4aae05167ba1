"""The agents of a testbed, one on each node: commands out, answers in, as lines of JSON.

An agent (`guest.agent`) answers each command with one line. Here a thread per agent reads those lines into one queue,
so that whoever waits sees at once when any of them answers, fails, or is gone.
"""

import json
import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from testbed.deadline import Deadline
from testbed.errors import GuestError

SAID_LINES = 40
"""Last lines of an agent's standard error that an error shows."""
_CONSEQUENCES = frozenset(["peer"])
"""Kinds of errors that say no more than that another node failed."""
_LATE = "deadline"
"""Kind of error of a node that has waited long enough: what it waited for another one may know."""
_ANSWER_SHARE = 0.1
_ANSWER_S = 3.0
"""How much longer than what an agent may take for a run it may take for its answer: agents look at the clock twice a
second, then end what runs, and know best what they waited for."""
_LOST = frozenset(["fenced"])
"""Kinds of errors of a node without which the others have gone on."""


def answer_within(allowed_s: float) -> Deadline:
    """By when agents answer that end a run after so many seconds, from now on, whatever it waits for."""
    return Deadline(allowed_s + max(allowed_s * _ANSWER_SHARE, _ANSWER_S))


class Silent(GuestError):
    """An agent did not answer in time; it may be slow, or frozen."""


class Refused(GuestError):
    """An agent answered a command with an error: it lives, and what it says is `kind`, in the agent's words."""

    def __init__(self, message: str, hint: str, kind: str) -> None:
        super().__init__(message, hint)
        self.kind = kind


class AgentProcess(Protocol):
    """A running agent: on a guest through SSH, or a process of this host."""

    @property
    def stdin(self) -> BinaryIO: ...

    @property
    def stdout(self) -> BinaryIO: ...

    def said(self) -> str:
        """The end of what it wrote to standard error."""

    def ended(self) -> str:
        """How it ended, in words (`exit code 1`); "" while it runs."""

    def close(self) -> None:
        """End it, by force if need be, and give back what it holds. May be called twice."""


@dataclass
class _Agent:
    name: str
    process: AgentProcess
    noise: deque[str] = field(default_factory=lambda: deque(maxlen=SAID_LINES))
    """Lines on its standard output that were no answers."""


class Agents:
    """All agents of a testbed, by node."""

    def __init__(self, processes: Mapping[str, AgentProcess], way_in: str = "") -> None:
        """`way_in` is a hint how a person sees a node that is gone, `NODE` in place of its name."""
        self._way_in = way_in
        self._agents = {name: _Agent(name, process) for name, process in processes.items()}
        self._answers: queue.SimpleQueue[tuple[str, dict[str, Any] | None]] = queue.SimpleQueue()
        self._ended: set[str] = set()
        for agent in self._agents.values():
            threading.Thread(target=self._read, args=(agent,), name=f"agent {agent.name}", daemon=True).start()

    def ask(self, commands: Mapping[str, dict[str, Any]], deadline: Deadline) -> dict[str, dict[str, Any]]:
        """Give each named node its command, all at once, and wait for all the answers.

        Raises GuestError when a node answers with an error, ends, or says nothing until the deadline.
        """
        for name, command in commands.items():
            self._send(self._agents[name], command)
        operation = next(iter(commands.values()))["op"]
        answers: dict[str, dict[str, Any]] = {}
        refused: dict[str, dict[str, Any]] = {}
        while len(answers) + len(refused) < len(commands):
            missing = [name for name in commands if name not in answers and name not in refused]
            name, answer = self._next(missing, operation, deadline)
            if answer is None:
                raise self._gone(self._agents[name], operation)
            if answer.get("op") not in (operation, None):
                continue  # a late answer to an earlier command, which ended when another node failed
            if answer["event"] != "error":
                answers[name] = answer
            elif answer.get("kind") in _CONSEQUENCES:
                refused[name] = answer  # whoever caused it is about to answer too
            else:
                raise self._refused(self._agents[name], operation, answer)
        for name, answer in refused.items():
            raise self._refused(self._agents[name], operation, answer)
        return answers

    def settle(self, deadline: Deadline) -> None:
        """End whatever the agents are at and close their memory, so that the next point can begin.

        Raises GuestError when one is gone or says nothing: then nothing can begin on it.
        """
        for operation in ("abort", "close"):
            for agent in self._agents.values():
                self._send(agent, {"op": operation})
            missing = set(self._agents)
            while missing:
                name, answer = self._next(sorted(missing), operation, deadline)
                if answer is None:
                    raise self._gone(self._agents[name], operation)
                if answer.get("op") == operation:  # done, or an error that says there was nothing to do
                    missing.discard(name)

    def ask_survivors(
        self, commands: Mapping[str, dict[str, Any]], kernels: Sequence[str], deadline: Deadline, grace_s: float
    ) -> tuple[dict[str, dict[str, Any]], dict[str, GuestError]]:
        """As `ask` for a `run`, but nodes may be lost as long as others come to the end without them.

        Returns the answers, and why there is none from the nodes that are lost. One that `kernels` (in the order of
        their ids) have declared dead, and that has said nothing, is given `grace_s` more. Raises GuestError as `ask`
        does, and if nobody comes to the end.
        """
        for name, command in commands.items():
            self._send(self._agents[name], command)
        answers: dict[str, dict[str, Any]] = {}
        failures: dict[str, GuestError] = {}
        refused: dict[str, Refused] = {}
        while missing := [name for name in commands if name not in answers | failures | refused]:
            dead = {kernels[kernel] for answer in answers.values() for kernel in answer["dead_kernels"]}
            waiting = Deadline(min(grace_s, deadline.remaining())) if dead.issuperset(missing) else deadline
            try:
                name, answer = self._next(missing, "run", waiting)
            except GuestError as silence:
                if waiting is deadline:
                    raise _too_late(refused, failures, commands) or next(iter(failures.values()), silence) from None
                failures |= dict.fromkeys(missing, silence)
                continue
            if answer is None:
                failures[name] = self._gone(self._agents[name], "run")
            elif answer.get("op") not in ("run", None):
                continue
            elif answer["event"] != "error":
                answers[name] = answer
            elif answer.get("kind") in _LOST:
                failures[name] = self._refused(self._agents[name], "run", answer)
            elif answer.get("kind") in _CONSEQUENCES or answer.get("kind") == _LATE:
                refused[name] = self._refused(self._agents[name], "run", answer)
            else:
                cause = self._refused(self._agents[name], "run", answer)
                raise Refused("\n".join(each.message for each in (cause, *failures.values())), cause.hint, cause.kind)
        if refused or not answers:
            raise _too_late(refused, failures, commands) or _nobody_is_left(failures) or next(iter(refused.values()))
        return answers, failures

    def close(self) -> None:
        """Ask every agent to leave, then end them."""
        for agent in self._agents.values():
            try:
                self._send(agent, {"op": "exit"})
            except GuestError:
                pass  # it has left already
        for agent in self._agents.values():
            agent.process.close()

    def _next(self, missing: list[str], operation: str, deadline: Deadline) -> tuple[str, dict[str, Any] | None]:
        """The next answer of one that is `missing`, or None if it has ended. What others say now, they say too late."""
        try:
            while not (gone := self._ended.intersection(missing)):
                name, answer = self._answers.get(timeout=deadline.remaining())
                if answer is None:
                    self._ended.add(name)
                elif name in missing:
                    return name, answer
            return min(gone), None
        except queue.Empty:
            said = "".join(self._shown(self._agents[name]) for name in missing)
            raise Silent(
                f"no answer to '{operation}' from {', '.join(missing)} in {deadline.seconds:g} s{said}",
                "if the point is that large, raise timeout_s in the experiment file",
            ) from None

    def _send(self, agent: _Agent, command: dict[str, Any]) -> None:
        try:
            agent.process.stdin.write(json.dumps(command).encode() + b"\n")
            agent.process.stdin.flush()
        except (OSError, ValueError):  # a closed pipe, a closed file
            raise self._gone(agent, command["op"]) from None

    def _read(self, agent: _Agent) -> None:
        try:
            for line in agent.process.stdout:
                try:
                    answer = json.loads(line)
                except ValueError:
                    answer = None
                if isinstance(answer, dict) and "event" in answer:
                    self._answers.put((agent.name, answer))
                else:
                    agent.noise.append(line.decode(errors="replace").rstrip())
        except (OSError, ValueError):
            pass  # closed from our side, or the connection broke: the end is reported the same way
        self._answers.put((agent.name, None))

    def _gone(self, agent: _Agent, operation: str) -> GuestError:
        how = agent.process.ended() or "its output was closed"
        return GuestError(
            f"node {agent.name}: its agent was gone before it answered '{operation}': {how}{self._shown(agent)}",
            self._way_in.replace("NODE", agent.name),
        )

    def _refused(self, agent: _Agent, operation: str, answer: dict[str, Any]) -> Refused:
        kind = str(answer.get("kind", "error"))
        said = f"{kind}: {answer.get('message', answer)}"
        return Refused(f"node {agent.name}: '{operation}' failed: {said}", str(answer.get("hint", "")), kind)

    def _shown(self, agent: _Agent) -> str:
        said = "\n".join([*agent.noise, agent.process.said().strip()]).strip()
        if not said:
            return f"\nthe agent on {agent.name} said nothing"
        return f"\nthe agent on {agent.name} said:\n" + "\n".join(
            "    " + line for line in said.splitlines()[-SAID_LINES:]
        )


def _nobody_is_left(failures: Mapping[str, GuestError]) -> GuestError | None:
    """If nodes are lost: why each of them is."""
    if not failures:
        return None
    return GuestError("\n".join(each.message for each in failures.values()), next(iter(failures.values())).hint)


def _too_late(
    refused: Mapping[str, Refused], failures: Mapping[str, GuestError], commands: Mapping[str, dict[str, Any]]
) -> Refused | None:
    """If time was over for a node, who is gone and what all others waited for: none of them knows who keeps whom
    waiting."""
    told = sorted(refused.values(), key=lambda each: each.kind != _LATE)
    if not told or told[0].kind != _LATE:
        return None
    allowed = [command["deadline_s"] for command in commands.values() if "deadline_s" in command]
    lines = [f"not over in {max(allowed):g} s, which is all that it may take" if allowed else "not over in time"]
    lines += [each.message for each in (*failures.values(), *told)]
    hint = "`timeout_s` of the experiment file is how long a point may take; emulated guests get ten times as long"
    return Refused("\n".join(lines), hint, _LATE)
