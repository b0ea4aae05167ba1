"""A pytest plugin: the fixture `testbed` is live guests, brought up once a session from `--testbed-config FILE`.

It is loaded into every pytest session of an environment that has this project in it, so whatever is slow to import is
imported when the first test asks for guests.
"""

import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from orchestrator.live import LiveTestbed

OPTION, INI = "--testbed-config", "testbed_config"
FIXTURE = "testbed"
_ENDING = (signal.SIGTERM, signal.SIGHUP)
"""pytest itself knows SIGINT alone; any of these would end it without its fixtures' ends."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testbed", "live guests (fixture `testbed`)")
    group.addoption(
        OPTION,
        action="append",
        metavar="FILE",
        help="Experiment file whose machines are the fixture `testbed`; with several, tests are run on each.",
    )
    group.addoption("--testbed-accel", choices=["auto", "kvm", "tcg"], help="Overrule the accelerator of every node.")
    group.addoption(
        "--testbed-required",
        action="store_true",
        help="Fail, in place of skipping, tests whose guests this host cannot start.",
    )
    parser.addini(INI, f"Experiment files in place of {OPTION}, relative to this file.", type="paths", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Files that are wrong are told before anything is collected."""
    files = _files(config)
    if not files or hasattr(config, "workerinput"):  # with xdist, the one that started the workers has told it
        return
    from orchestrator.errors import InputError
    from orchestrator.experiments.plan import load

    for file in files:
        try:
            load(file)
        except InputError as error:
            raise pytest.UsageError(f"{OPTION}: {error.message}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With several files every test is run on each; all of one file come together, so that one at a time is up."""
    files = _files(metafunc.config)
    if FIXTURE in metafunc.fixturenames and len(files) > 1:
        metafunc.parametrize(FIXTURE, files, indirect=True, scope="session", ids=[file.stem for file in files])


@pytest.fixture(scope="session")
def testbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator["LiveTestbed"]:
    """Live guests (`orchestrator.live.LiveTestbed`). They are there as the last test left them."""
    config = request.config
    file: Path | None = getattr(request, "param", None) or next(iter(_files(config)), None)
    if file is None:
        pytest.skip(f"no live guests: neither {OPTION} FILE nor {INI} in the ini-file was given")
    from images.errors import Failure, HostError
    from orchestrator.live import live

    with _signals_end_the_session():
        try:
            guests = live(file, config.getoption("--testbed-accel"), tmp_path_factory.mktemp("results"))
        except Failure as failure:
            told = f"{file}: {failure.message}" + (f"\nhint: {failure.hint}" if failure.hint else "")
            if isinstance(failure, HostError) and not config.getoption("--testbed-required"):
                pytest.skip(f"this host cannot start the guests: {told}")
            pytest.fail(told, pytrace=False)
        try:
            yield guests
        finally:
            guests.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what its guests said last."""
    report = yield
    module = sys.modules.get("orchestrator.live")
    guests = getattr(item, "funcargs", {}).get(FIXTURE)
    if report.failed and module is not None and isinstance(guests, module.LiveTestbed):
        report.sections += guests.last_words()
    return report


def _files(config: pytest.Config) -> list[Path]:
    """Those of the command line, relative to where pytest was started, or those of the ini-file."""
    given: list[str] = config.getoption(OPTION) or []
    return [config.invocation_params.dir / file for file in given] or list(config.getini(INI))


@contextmanager
def _signals_end_the_session() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP end pytest as Ctrl-C does: guests are taken down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a test has forked
            os._exit(128 + number)
        pytest.exit(f"stopped by {signal.Signals(number).name}", returncode=128 + number)

    before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
