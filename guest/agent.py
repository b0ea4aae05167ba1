"""The agent of one node: `python3 -m guest.agent`. Commands come as JSON lines, each is answered by one line.

    {"op":"hello"}                       → {"event":"hello",…}      who this is and what it can do
    {"op":"join","kernel":0,"link":{…}}  → {"event":"joined"}       takes the link's device: no `open` will wait for it
    {"op":"open","kernel":0,…}           → {"event":"opened",…}     clean memory, coherent with the other kernels';
                                                                    with "mapped":N threads may map more than N pages
    {"op":"run","workload":{…},…}        → {"event":"finished",…}   the workload's outcome; once for each open
    {"op":"close"}                       → {"event":"closed"}
    {"op":"leave"}                       → {"event":"left"}         closed too, and others have all its pages
    {"op":"put","name","offset","data"}  → {"event":"put",…}        a piece of a file, base64, for workloads to name
    {"op":"execute","commands":[…],…}    → {"event":"executed",…}   command lines in a folder of their own, in order
    {"op":"get","name","offset"}         → {"event":"got",…}        a piece of a file that they left there
    {"op":"trace"}                       → {"event":"trace",…}      what the engine did since `open` with "trace":true
    {"op":"abort"}                       → {"event":"aborting"}     and the run's own answer, an error of kind `aborted`
    {"op":"exit"}                        → {"event":"exiting"}      and the end of the process, as at the end of input

What cannot be done is answered by {"event":"error","op","kind","message","hint"}, and the agent stays usable.

This is the daemon's process too: between `open` and `close` it serves page faults and messages while it waits for
commands. Only one thing is a process of its own: the launcher, from which applications are forked.
"""

import gc
import json
import os
import select
import signal
import struct
import sys
import traceback
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from guest.commands import Answer, CommandError, choice, error_answer, fields_of, number, open_link, roles, seconds
from guest.daemon.daemon import Daemon
from guest.errors import GuestFailure, SegmentError
from guest.execution import Execution, ExecutionFailed
from guest.link.link import Link
from guest.link.membership import FAILURE_DEADLINE_S
from guest.link.notify import Policy
from guest.link.segment import PAGE_BYTES, NodeState, Segment
from guest.memory.region import Region
from guest.protocol.address_space import Access, AddressSpace
from guest.protocol.engine import Engine, ProtocolError
from guest.protocol.registry import PROTOCOLS
from guest.protocol.space import SpaceEngine
from guest.protocol.trace import TRACE_VERSION, TracedEngine
from guest.runs.launcher import Launcher
from guest.runs.offer import Offer, Spare
from guest.runs.process_run import ProcessRun
from guest.runs.run import Run
from guest.runs.running import Running
from guest.runs.strays import adopt, end_strays
from guest.workloads import WORKLOADS, Distributed, Native, Script, Workload, WorkloadError, parse

_READ_BYTES = 1 << 16
_LINE_BYTES = 1 << 20
"""A longer line is no command."""
PIECE_BYTES = 1 << 19
"""Of a file in one answer."""


class Agent:
    """Commands in, answers out."""

    def __init__(self, commands_fd: int, answers_fd: int) -> None:
        self._commands_fd = commands_fd
        self._answers_fd = answers_fd
        self._line = b""
        self._ended = False
        adopt()
        self._launcher = Launcher()
        self._link: Link | None = None
        self._link_fields: dict[str, Any] = {}
        self._daemon: Daemon | None = None
        self._run: Running | None = None
        self._said: list[str] = []
        """By the programs of the last run, or by the last commands."""
        self._used = False
        self._files: dict[str, int] = {}
        self._execution: Execution | None = None
        self._leaving = False
        self._trace: TracedEngine | None = None
        self._trace_header: dict[str, Any] = {}
        self._operations: dict[str, Callable[[dict[str, Any]], Answer | None]] = {
            "hello": self._hello,
            "join": self._join,
            "open": self._open,
            "run": self._start,
            "close": self._close,
            "leave": self._leave,
            "put": self._put,
            "execute": self._execute,
            "get": self._get,
            "trace": self._traced,
            "output": self._output,
            "abort": self._abort,
            "exit": self._exit,
        }

    def serve(self) -> None:
        """Until `exit` or the end of input; then nothing of it is left."""
        try:
            while not self._ended:
                if self._daemon is None and self._execution is not None and self._execution.running:
                    self._serve_execution(self._execution)
                elif self._daemon is None:
                    self._read()
                else:
                    self._serve_memory(self._daemon)
        finally:
            self._end()

    def _serve_memory(self, daemon: Daemon) -> None:
        """Until the daemon is stopped: the run is over, it is to be closed, or it cannot go on."""
        try:
            daemon.serve(self._tick)
            self._stopped(daemon)
        except (GuestFailure, ProtocolError, OSError, AssertionError) as error:
            self._broken(error)
        except (
            ValueError,
            LookupError,
            ArithmeticError,
            TypeError,
            struct.error,
        ) as error:  # words of others are numbers of ours
            traceback.print_exc()
            self._broken(
                SegmentError(
                    f"the shared memory makes no sense: {type(error).__name__}: {error}",
                    "something has written over it; if nothing can have, please report it, with the traceback above",
                )
            )

    def _stopped(self, daemon: Daemon) -> None:
        if self._leaving:
            self._left(daemon)
            return
        run = self._run
        if run is None:
            return
        if run.failure is None:
            answer = {"event": "finished", "op": "run", **run.result()}
        else:
            answer = error_answer("run", run.failure)
        self._end_run()
        daemon.node.state = NodeState.OPEN
        self._answer(answer)

    def _serve_execution(self, execution: Execution) -> None:
        """Until its command has ended, its time is over, or there are commands for us."""
        poll = select.poll()
        for descriptor in (self._commands_fd, execution.pidfd):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(execution.remaining_ms())]
        if self._commands_fd in ready:
            self._read()
        if self._ended or not execution.running:
            return
        try:
            answer = execution.poll()
        except GuestFailure as failure:
            answer = error_answer("execute", failure)
        if answer is not None:
            self._said = execution.output
            self._answer(answer)

    def _broken(self, error: Exception) -> None:
        """The memory can no longer be kept coherent: nothing may go on with it."""
        operation = "leave" if self._leaving else "open" if self._run is None else "run"
        assert self._daemon is not None, "memory is broken that is not open"
        self._daemon.silent = True
        self._close({})
        self._answer(error_answer(operation, error))

    def _tick(self, now_ns: int) -> None:
        if self._run is not None:
            self._run.tick(now_ns)

    # -- lines -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        data = os.read(self._commands_fd, _READ_BYTES)
        if not data:
            self._ended = True
            self._stop()
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if line.strip() and not self._ended:
                self._command(line)
        if len(self._line) > _LINE_BYTES:
            self._line = b""
            long = CommandError(f"a line of more than {_LINE_BYTES} bytes", "one command per line")
            self._answer(error_answer(None, long))

    def _command(self, line: bytes) -> None:
        operation = None
        try:
            fields = fields_of(line)
            operation = fields.get("op")
            if not isinstance(operation, str) or operation not in self._operations:
                raise CommandError(f"op {operation!r}, expected one of: {', '.join(self._operations)}")
            if self._run is not None and operation not in ("abort", "leave", "exit", "trace", "output"):
                raise CommandError(f"{operation!r} while a run is going on", "wait for its answer, or send abort")
            if self._execution is not None and self._execution.running and operation not in ("abort", "exit", "output"):
                raise CommandError(f"{operation!r} while commands run", "wait for their answer, or send abort")
            if self._leaving and operation not in ("exit", "trace"):
                raise CommandError(f"{operation!r} while the kernel is leaving", "wait for its answer")
            answer = self._operations[operation](fields)
        except (GuestFailure, OSError) as error:
            answer = error_answer(operation, error)
        if answer is not None:
            self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        data = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        while data:
            data = data[os.write(self._answers_fd, data) :]

    # -- commands ----------------------------------------------------------------------------------------------------

    def _hello(self, _: dict[str, Any]) -> Answer:
        system = os.uname()
        return {
            "event": "hello",
            "op": "hello",
            "isa": system.machine,
            "python": sys.version.split()[0],
            "kernel_release": system.release,
            "monotonic_ns": monotonic_ns(),
            "features": {
                "protocols": list(PROTOCOLS),
                "notify": [policy.value for policy in Policy],
                "workloads": list(WORKLOADS),
                "links": ["ivshmem", "host"],
            },
        }

    def _join(self, fields: dict[str, Any]) -> Answer:
        if self._daemon is not None:
            raise CommandError("the memory is open already", "send close first")
        self._find_link(fields.get("link"), number(fields, "kernel", 0, 63))
        return {"event": "joined", "op": "join"}

    def _open(self, fields: dict[str, Any]) -> Answer:
        if self._daemon is not None:
            raise CommandError("the memory is open already", "send close first")
        kernel = number(fields, "kernel", 0, 63)
        kernels = number(fields, "kernels", 2, 64)
        members = range(kernels if fields.get("members") is None else number(fields, "members", 1, kernels))
        pages = number(fields, "pages", 1, 1 << 24)
        protocol = choice(fields, "protocol", PROTOCOLS, "voting")
        policy = Policy(choice(fields, "notify", [policy.value for policy in Policy], "adaptive"))
        failure_deadline_s = seconds(fields, "failure_deadline_s", FAILURE_DEADLINE_S)
        link = self._find_link(fields.get("link"), kernel)
        segment = Segment.open(link.memory)
        if segment.layout.kernels != kernels:
            raise CommandError(
                f"the segment is formatted for {segment.layout.kernels} kernels, this command says {kernels}",
                "format the segment anew before every open",
            )
        if segment.nodes[kernel].state is not NodeState.ABSENT:
            raise CommandError(
                f"kernel {kernel} of this segment is {segment.nodes[kernel].state.name} already, expected ABSENT",
                "format the segment anew before every open; every kernel has an id of its own",
            )
        home = 0
        engine: Engine = PROTOCOLS[protocol](kernel, members if kernel in members else (home,), pages, home)
        space: SpaceEngine | TracedEngine | None = None
        mapped = number(fields, "mapped", 0, pages) if fields.get("mapped") is not None else None
        if mapped is not None:
            engine = space = SpaceEngine(engine, kernel, members, AddressSpace.first(mapped, pages), home)
        self._trace = None
        if fields.get("trace"):
            engine = self._trace = TracedEngine(engine, monotonic_ns)
            space = space and self._trace
            header = {"protocol": protocol, "kernel": kernel, "kernels": kernels, "pages": pages}
            self._trace_header = header | {"mapped": mapped, "members": len(members)}
        region = Region(pages, number(fields, "span", 1, pages) if fields.get("span") is not None else None)
        if mapped is not None:
            first = mapped if kernel in members else 0
            region.allow(first, pages - first, Access.NONE)
        resident = number(fields, "resident_pages", 1, pages) if fields.get("resident_pages") is not None else None
        daemon = Daemon(segment, link, kernel, engine, region, policy, failure_deadline_s, space, resident)
        daemon.watch(self._commands_fd, self._read)
        self._daemon = daemon
        self._used = False
        gc.collect()
        gc.freeze()
        return {
            "event": "opened",
            "op": "open",
            "kernel": kernel,
            "generation": segment.generation,
            "ring_slots": segment.layout.ring_slots,
            "page_slots": segment.layout.page_slots,
        }

    def _start(self, fields: dict[str, Any]) -> None:
        daemon = self._daemon
        if daemon is None:
            raise CommandError("there is no memory to run on", "send open first")
        if self._used:
            raise CommandError("this memory has been used by a run", "close, format the segment, and open it again")
        described = fields.get("workload")
        if not isinstance(described, dict):
            raise WorkloadError(f"workload {described!r}, expected an object with a kind")
        workload = parse(described)
        everyone = roles(fields, daemon.kernel, len(daemon.kernels))
        workload.check_roles(everyone)
        if workload.pages > daemon.region.span:
            raise WorkloadError(
                f"the workload touches {workload.pages} pages, the region has {daemon.region.span}",
                "make the region larger or the workload smaller",
            )
        deadline_s = fields.get("deadline_s")
        deadline_ns = None if deadline_s is None else monotonic_ns() + int(float(deadline_s) * 1e9)
        memory = choice(fields, "memory", ("coherent", "bare"), "coherent")
        program_fd = self._file(described.get("file"))
        if program_fd is not None and not isinstance(workload, Script | Native | Distributed):
            raise WorkloadError(f"{described.get('kind')}: a file, expected none")
        self._used = True
        daemon.node.state = NodeState.RUNNING
        if isinstance(workload, Distributed):
            if program_fd is None:
                raise WorkloadError("process: there is no file", "put it, and name it in the run command")
            processes = ProcessRun(daemon, self._launcher, workload, deadline_ns)
            self._run = processes
            processes.start(described, program_fd)
            return
        run = Run(daemon, self._launcher, workload, deadline_ns)
        self._run = run
        run.start(described, everyone, self._offer(memory, daemon, workload), program_fd)

    def _put(self, fields: dict[str, Any]) -> Answer:
        """Keep a piece of a file for runs to name. It lives in memory, so that nothing of it can be left over."""
        name, offset = str(fields.get("name")), number(fields, "offset", 0, 1 << 40)
        if name not in self._files:
            self._files[name] = os.memfd_create("program", os.MFD_CLOEXEC)
        try:
            data = a2b_base64(str(fields.get("data", "")), strict_mode=True)
        except ValueError as error:
            raise CommandError(f"data of {name!r}: {error}", "expected base64") from error
        os.pwrite(self._files[name], data, offset)
        return {"event": "put", "op": "put", "size_bytes": os.fstat(self._files[name]).st_size}

    def _file(self, name: object) -> int | None:
        if name is None:
            return None
        if name not in self._files:
            raise CommandError(f"file {name!r}, expected one of: {', '.join(self._files) or 'none is there'}", "put it")
        return self._files[str(name)]

    def _traced(self, _: dict[str, Any]) -> Answer:
        """At any time, after `close` too: of a run that failed it is wanted most, and not all kernels end at once."""
        if self._trace is None:
            raise CommandError("there is no trace", 'open the memory with "trace": true')
        header = {"version": TRACE_VERSION, **self._trace_header, "dropped": self._trace.dropped}
        header["open"] = self._daemon is not None
        return {"event": "trace", "op": "trace", "header": header, "entries": self._trace.entries()}

    def _output(self, _: dict[str, Any]) -> Answer:
        """What programs or commands have said, the last ones if none run: wanted when they failed."""
        talking = self._run or (self._execution if self._execution and self._execution.running else None)
        return {"event": "output", "op": "output", "output": talking.output if talking else self._said}

    def _execute(self, fields: dict[str, Any]) -> None:
        commands, named = fields.get("commands"), fields.get("files", {})
        if (
            not isinstance(commands, list)
            or not commands
            or not all(isinstance(each, list) and each for each in commands)
        ):
            raise CommandError(f"commands {commands!r}, expected a list of command lines, lists of words")
        files = {str(name): fd for name, key in dict(named).items() if (fd := self._file(key)) is not None}
        deadline_s = fields.get("deadline_s")
        deadline_ns = None if deadline_s is None else monotonic_ns() + int(float(deadline_s) * 1e9)
        if self._execution is not None:
            self._execution.close()
        self._execution = Execution(
            commands, files, dict(fields.get("environment", {})), deadline_ns, (self._launcher.pid,)
        )

    def _get(self, fields: dict[str, Any]) -> Answer:
        """A piece of a file that commands have left, as much as an answer has room for."""
        if self._execution is None:
            raise CommandError("there is no file, as no command was run", "send execute first")
        data, size = self._execution.read(str(fields.get("name")), number(fields, "offset", 0, 1 << 40), PIECE_BYTES)
        return {"event": "got", "op": "get", "size_bytes": size, "data": b2a_base64(data, newline=False).decode()}

    def _abort(self, _: dict[str, Any]) -> Answer:
        if self._execution is not None and self._execution.running:
            self._execution.kill()
            self._said = self._execution.output
            self._answer(error_answer("execute", ExecutionFailed("aborted", "the commands were ended by command")))
            return {"event": "aborting", "op": "abort"}
        if self._run is None:
            raise CommandError("there is no run to abort")
        self._run.abort()
        return {"event": "aborting", "op": "abort"}

    def _close(self, _: dict[str, Any]) -> Answer:
        if self._daemon is None:
            raise CommandError("nothing is open")
        self._stop()
        self._shut(self._daemon, NodeState.CLOSED)
        return {"event": "closed", "op": "close"}

    def _leave(self, _: dict[str, Any]) -> None:
        daemon = self._daemon
        if daemon is None:
            raise CommandError("nothing is open")
        if not daemon.may_leave:
            raise CommandError(
                "this kernel cannot leave: it is the origin, or the last one", "close it: its pages are lost"
            )
        self._end_run()
        daemon.leave()
        self._leaving = True

    def _left(self, daemon: Daemon) -> None:
        """All is handed over, or there is nobody any more to whom it could be."""
        if daemon.leaving:
            self._broken(CommandError("the last other kernel died", "what only this one had is lost"))
            return
        self._shut(daemon, NodeState.LEFT)
        self._answer({"event": "left", "op": "leave"})

    def _end_run(self) -> None:
        if self._run is not None:
            self._said = self._run.output
            self._run.close()
            self._run = None

    def _shut(self, daemon: Daemon, state: NodeState) -> None:
        self._end_run()
        self._leaving = False
        daemon.close(state)
        self._daemon = None
        gc.unfreeze()
        gc.collect()

    def _exit(self, _: dict[str, Any]) -> Answer:
        self._ended = True
        self._stop()
        return {"event": "exiting", "op": "exit"}

    # -- parts -------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._daemon is not None:
            self._daemon.stop()

    def _end(self) -> None:
        if self._daemon is not None:
            self._close({})
        if self._execution is not None:
            self._execution.close()
        self._launcher.close()
        end_strays(())
        if self._link is not None:
            self._link.close()

    def _offer(self, memory: str, daemon: Daemon, workload: Workload | Distributed) -> Offer:
        assert self._link is not None, "memory is open without a link"
        spare = Spare(self._link, Segment.open(self._link.memory).layout, daemon.kernel)
        meeting = spare.take(workload.meeting_bytes) if workload.meeting_bytes else None
        if memory == "coherent":
            return Offer.coherent(daemon.region, meeting, maps=daemon.maps)
        return Offer.bare(spare.take(workload.pages * PAGE_BYTES), meeting)

    def _find_link(self, fields: Any, kernel: int) -> Link:
        """The link that `fields` describe: it stays open, as taking a device costs more than many a run."""
        if not isinstance(fields, dict) or fields.get("kind") not in ("ivshmem", "host"):
            raise CommandError(f"link {fields!r}, expected an object of kind ivshmem or host")
        wanted = {**fields, "kernel": kernel} if fields["kind"] == "host" else fields
        if self._link is not None and self._link_fields == wanted:
            return self._link
        if self._link is not None:
            self._link.close()
            self._link = None
        self._link = open_link(fields, kernel)
        self._link_fields = wanted
        return self._link


def main() -> None:
    """Serve standard input until it ends."""
    # Ctrl-C reaches every process of the terminal; it is for the one that started this agent to end it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # a collection in the middle of a fault would be seen as latency
    Agent(0, 1).serve()


if __name__ == "__main__":
    main()
