"""The process that application processes are forked from.

Starting Python costs an emulated guest a second; a fork costs milliseconds. So one small process, forked from the agent
before that opens any device, waits with all workloads imported. It shares nothing with the daemon but a socket: a page
fault of an application never meets the daemon's interpreter lock, and no device descriptor leaks into an application.

Whoever loses the process it depends on dies: the launcher with the agent, the applications with the launcher.
"""

import gc
import json
import os
import signal
import sys
from collections.abc import Collection, Iterable
from ctypes import CDLL
from math import log
from socket import AF_UNIX, SOCK_SEQPACKET, recv_fds, send_fds, socket, socketpair
from typing import Any

from guest.errors import GuestFailure
from guest.programs.application import run_thread
from guest.programs.worker import run_worker
from guest.runs.strays import adopt, end_strays

_MESSAGE_BYTES = 1 << 18
_CLEAR = b"null"
_PATIENCE_S = 2.0
CROWD = 32
"""Application processes that have their full share of the CPU each."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class LauncherGone(GuestFailure):
    """A program has killed the process that all programs are forked from."""

    kind = "system"

    def __init__(self) -> None:
        super().__init__("the process that programs are forked from has ended", "has a program killed its parent?")


class Launcher:
    """The agent's end of the launcher process."""

    def __init__(self) -> None:
        self._socket, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        self._ended: dict[int, str] = {}
        agent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self._socket.close()
                die_with(agent)
                os.dup2(2, 1)  # standard output belongs to the agent's answers, and standard input to its commands
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                _serve(theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    def launch(self, thread: dict[str, Any], program_fd: int | None = None) -> socket:
        """Fork an application process for `thread` (see `run_thread`); returns the socket to it."""
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        with theirs:
            fds = [theirs.fileno()] if program_fd is None else [theirs.fileno(), program_fd]
            try:
                send_fds(self._socket, [json.dumps(thread).encode()], fds)
            except ConnectionError:
                raise LauncherGone from None
        return ours

    def ended(self, thread: int) -> str:
        """How the application process of `thread`, which is known to have ended, did so."""
        self._socket.settimeout(_PATIENCE_S)
        try:
            while thread not in self._ended:
                data = self._heard()
                if not data:
                    return "the launcher has ended too"
                number, how = json.loads(data)
                self._ended[number] = str(how)
        except TimeoutError:
            return "its exit status did not arrive"
        return self._ended[thread]

    def clear(self) -> None:
        """End every application process, and all that they have started; returns when they are gone."""
        self._end(_CLEAR)
        self._ended.clear()

    def end(self, threads: Iterable[int]) -> None:
        """End the application processes of these threads; returns when they are gone."""
        self._end(json.dumps([*threads]).encode())

    def _end(self, order: bytes) -> None:
        self._socket.settimeout(None)
        try:
            self._socket.send(order)
        except ConnectionError:
            return  # all of them have ended with it
        while (data := self._heard()) not in (_CLEAR, b""):
            number, how = json.loads(data)
            self._ended[number] = str(how)

    def _heard(self) -> bytes:
        """What the launcher says next; nothing once it has ended. Raises TimeoutError."""
        try:
            return self._socket.recv(_MESSAGE_BYTES)
        except ConnectionError:
            return b""

    def close(self) -> None:
        """End the launcher and every application process."""
        self._socket.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, its parent, dies (prctl(2), PR_SET_PDEATHSIG)."""
    CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it died before the call


def _serve(control: socket) -> None:
    threads: dict[int, int] = {}
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: _reap(threads, control))
    gc.collect()
    gc.freeze()  # forked processes share these pages; a collection would copy them
    launcher = os.getpid()
    adopt()
    while True:
        data, fds, _, _ = recv_fds(control, _MESSAGE_BYTES, 2)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        if not data:
            return
        thread = json.loads(data)
        if not isinstance(thread, dict):  # those of some threads, or of all
            for pid in [pid for pid, number in threads.items() if thread is None or number in thread]:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                del threads[pid]
            if thread is None:
                end_strays(())
            control.send(_CLEAR)
        else:
            pid = os.fork()
            if pid == 0:
                _become(thread, control, fds, launcher)
            threads[pid] = thread["thread"]
            _leave_room(threads)
            for fd in fds:
                os.close(fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def _leave_room(pids: Collection[int]) -> None:
    """Processes that are many have the weight of few (sched(7): each step of niceness is a quarter), all the same:
    else a daemon that they keep busy would get as little of the CPU as each of them, and be taken for dead."""
    level = min(19, os.nice(0) + max(0, round(log(len(pids) / CROWD, 1.25))))
    found = [(pid, os.getpriority(os.PRIO_PROCESS, pid)) for pid in pids]
    level = max(level, *(nice for _, nice in found))  # nobody but root makes it smaller again
    for pid, nice in found:
        if nice < level:
            os.setpriority(os.PRIO_PROCESS, pid, level)


def _become(thread: dict[str, Any], control: socket, fds: list[int], launcher: int) -> None:
    status = 1
    try:
        die_with(launcher)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        control.close()
        with socket(fileno=fds[0]) as daemon:
            if thread.get("worker"):
                run_worker(daemon, thread, fds[1])
            else:
                run_thread(daemon, thread, fds[1] if len(fds) > 1 else None)
        status = 0
    except BaseException:  # noqa: BLE001 - this process ends here whatever happened, and says why
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _reap(threads: dict[int, int], control: socket) -> None:
    while threads:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid not in threads:
            continue  # a stray
        code = os.waitstatus_to_exitcode(status)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        control.send(json.dumps((threads.pop(pid), how)).encode())
