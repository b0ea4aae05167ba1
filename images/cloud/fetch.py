"""One file into the store: copied or downloaded, with its digest compared before anybody else sees it.

What has come of a download stays beside the images when it is interrupted, under a name that is no image's, and the
next attempt goes on from there. The digest is over the whole file in any case.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from images.cloud.definition import Source
from images.errors import Failure, HostError, writing

CHUNK_BYTES = 1 << 20
SAY_S = 2.0
SILENCE_S = 30.0
"""Without a byte for so long a server is given up."""

Say = Callable[[str], None]


def fetch(source: Source, partial: Path, say: Say) -> None:
    """Makes `partial` the whole file of `source`. Raises Failure for a wrong digest, HostError if it cannot be had.

    What is in `partial` already is taken for the beginning of a download that was interrupted.
    """
    with writing(partial):
        if not source.remote:
            partial.unlink(missing_ok=True)
        resumed = _begun(partial)
        found = _transfer(source, partial, say)
        if found != source.digest and resumed:
            say("what an earlier download had left does not go with the rest, beginning anew")
            partial.unlink()
            found = _transfer(source, partial, say)
    if found != source.digest:
        partial.unlink()
        raise Failure(
            f"{source.location}: found {source.algorithm} {found}, expected {source.digest}; nothing of it is kept",
            "has the file changed at its source? Compare with the digest that its publisher gives",
        )


def _begun(partial: Path) -> int:
    return partial.stat().st_size if partial.exists() else 0


def _transfer(source: Source, partial: Path, say: Say) -> str:
    """Appends what is missing of the file; returns the digest of all of it."""
    digest = hashlib.new(source.algorithm)
    with partial.open("a+b") as target:
        partial.chmod(0o600)
        target.seek(0)
        while known := target.read(CHUNK_BYTES):
            digest.update(known)
        with _opened(source, target.tell()) as (stream, start, total):
            if start < target.tell():  # the server begins anew
                target.truncate(0)
                digest = hashlib.new(source.algorithm)
            _copy(source, stream, target, digest, Progress(say, source, start, total))
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def _copy(source: Source, stream: IO[bytes], target: IO[bytes], digest: Any, progress: Progress) -> None:
    while True:
        try:
            chunk = stream.read(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(source, progress.done, str(error) or type(error).__name__) from error
        if not chunk:
            break
        target.write(chunk)
        digest.update(chunk)
        progress.add(len(chunk))
    if progress.total and progress.done < progress.total:
        raise _unreachable(source, progress.done, f"it ended after {progress.done} of {progress.total} bytes")


class Progress:
    """Tells how far it is, when it takes longer than a moment."""

    def __init__(self, say: Say, source: Source, done: int, total: int | None) -> None:
        self.done, self.total = done, total
        self._say, self._location = say, source.location
        self._said = time.monotonic()

    def add(self, count: int) -> None:
        """So many bytes more."""
        self.done += count
        if time.monotonic() - self._said >= SAY_S:
            self._said = time.monotonic()
            of = f" of {self.total >> 20}" if self.total else ""
            self._say(f"{self._location}: {self.done >> 20}{of} MiB")


@contextmanager
def _opened(source: Source, start: int) -> Iterator[tuple[IO[bytes], int, int | None]]:
    """The bytes from `start` on, where they really begin, and the length of the whole file if it is known."""
    if not source.remote:
        try:
            stream = open(source.location, "rb")  # noqa: PTH123, SIM115 - closed below
            total = os.fstat(stream.fileno()).st_size
        except OSError as error:
            raise Failure(
                f"{source.location}: cannot be read: {error.strerror}", "see `source` in the image definition"
            ) from error
        with stream:
            yield stream, 0, total
        return
    response, begins = _response(source, start)
    with response:
        length = response.headers.get("Content-Length")
        yield response, begins, begins + int(length) if length else None


def _response(source: Source, start: int) -> tuple[Any, int]:
    request = urllib.request.Request(source.location, headers={"User-Agent": "testbed"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=SILENCE_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _response(source, 0)  # no more to come, or another file: the digest tells
        raise _unreachable(source, start, f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(source, start, str(getattr(error, "reason", error))) from error
    begins = f"bytes {start}-"
    partly = response.status == http.client.PARTIAL_CONTENT
    return response, start if partly and response.headers.get("Content-Range", "").startswith(begins) else 0


def _unreachable(source: Source, done: int, why: str) -> HostError:
    kept = f" {done >> 20} MiB are here: the next attempt goes on from there." if done else ""
    return HostError(
        f"{source.location}: cannot be downloaded: {why}.{kept}", "is there a network, or a proxy to name?"
    )
