"""The command `testbed`. This module holds what is about experiments; other commands are in `orchestrator.commands`.

Whatever is slow to import (libvirt, paramiko, pydantic, rich) is imported where it is used: `testbed --help` and shell
completion must answer at once.
"""

import itertools
import json
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from images.errors import Failure
from orchestrator import commands
from orchestrator.commands.options import JsonOption, OfflineOption, SetOption, WarmOption
from orchestrator.errors import DEFECT_EXIT_CODE, FileError, InputError, RunEnded, Stopped
from orchestrator.output import anything_put, begin, printable, put, tell, typed
from orchestrator.signals import signals_leave, signals_raise
from orchestrator.words import counted
from testbed.errors import of_host

UsageError: Any = typer.BadParameter.__base__
"""What the parser of the command line raises; typer keeps its name to itself."""


def _empty() -> typer.Typer:
    return typer.Typer(
        name="testbed",
        help="""Machines of different instruction sets with one coherent memory: boot them, run on them, check it.

\b
Examples:
  testbed run configs/quickstart.yaml                 boot an x86_64 and an aarch64 guest, run, check, report
  testbed run configs/quickstart.yaml --stage local   the same as processes of this host, in two seconds
  testbed up configs/quickstart.yaml                  machines to work with by hand
  testbed ssh arm -- uname -m                         a command on one of them
  testbed down                                        and away with them

\b
Exit codes: 0 passed, 1 failed, 2 wrong input, 3 the host or a guest failed, 128 + N stopped by signal N.
""",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


_own = _empty()
"""The commands of this module."""


class Stage(StrEnum):
    """Mirrors `orchestrator.experiments.experiment.StageName`, which needs pydantic."""

    VM = "vm"
    LOCAL = "local"
    SIM = "sim"


class Accel(StrEnum):
    """Mirrors `orchestrator.experiments.experiment.Accelerator`."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


def _version(wanted: bool) -> None:
    if wanted:
        from orchestrator.results.versions import own

        typer.echo(f"testbed {own()}")
        raise typer.Exit


@_own.callback()
def _options(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


ExperimentArgument = Annotated[Path, typer.Argument(metavar="FILE", help="An experiment file (YAML).")]


@_own.command()
def run(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="An experiment file (YAML).")] = None,
    overrides: SetOption = None,
    stage: Annotated[
        Stage | None,
        typer.Option(
            help="Real guests (vm, the default), the same daemons as processes of this host, or engines alone."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print run.json to standard output, and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; errors and the JSON only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every step, and tracebacks of defects.")] = False,
    accel: Annotated[Accel | None, typer.Option(help="Overrule the accelerator of every node.")] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where result directories go.")] = Path("results"),
    keep: Annotated[bool, typer.Option(help="Leave the guests running (`testbed ps`, `ssh`, `down`).")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End with the first point that fails.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Go on with a run after its last complete point, in place of FILE."),
    ] = None,
    pause_on_failure: Annotated[
        bool,
        typer.Option("--pause-on-failure", help="At a failure, leave all as it is until you have looked in."),
    ] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML there too, for CI.")] = None,
    warm: WarmOption = None,
    offline: OfflineOption = False,
) -> None:
    """Run an experiment: boot, deploy, run, check, report.

    \b
    Examples:
      testbed run configs/quickstart.yaml
      testbed run configs/counts.yaml --stage local
      testbed run configs/counts.yaml --stage sim
      testbed run configs/quickstart.yaml --json | jq '.points[].messages'
      testbed run configs/quickstart.yaml --accel tcg --keep
      testbed run configs/quickstart.yaml --pause-on-failure
      testbed run configs/quickstart.yaml --set workload.iterations=4 --set coherency.protocol=origin
      testbed run --resume last
      testbed run configs/quickstart.yaml --warm
      testbed run configs/quickstart.yaml --offline
    """
    from orchestrator.run_command import Options, resume_run, run_file

    options = Options(
        accelerator=accel.value if accel else None,
        warm=warm,
        offline=offline,
        keep=keep,
        fail_fast=fail_fast,
        pause=pause_on_failure,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        junit=junit,
    )
    if resume is None:
        if file is None:
            raise InputError("found no FILE, expected an experiment file, or --resume RUN", "`testbed run --help`")
        run_file(file, overrides or (), (stage or Stage.VM).value, results, options)
    elif file is not None or overrides or stage is not None:
        raise InputError(
            "found --resume with FILE, --set or --stage, expected it without: a run goes on as it was begun",
            "`testbed run FILE` begins a new one",
        )
    else:
        resume_run(resume, results, options)


@_own.command()
def validate(
    file: ExperimentArgument,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check an experiment file without starting anything.

    \b
    Examples:
      testbed validate configs/quickstart.yaml
      testbed validate configs/quickstart.yaml --set workload.array=8MiB
      testbed validate mine.yaml --json | jq -r '.error.problems[]'
    """
    from orchestrator.experiments.plan import load

    plan = load(file, overrides or ())
    if as_json:
        put(json.dumps({"outcome": "passed", "points": len(plan.points)}, indent=2) + "\n")
    else:
        put(f"{file}: ok, {counted(len(plan.points), 'point')}\n")


@_own.command()
def plan(
    file: ExperimentArgument,
    overrides: SetOption = None,
    stage: Annotated[Stage, typer.Option(help="Where it would run.")] = Stage.VM,
    as_json: JsonOption = False,
    accel: Annotated[Accel | None, typer.Option(help="Overrule the accelerator of every node.")] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Earlier runs, for the time it takes.")] = Path(
        "results"
    ),
) -> None:
    """Show every point of an experiment, its time and time-out, memory, and what is reused. Nothing is started.

    \b
    Examples:
      testbed plan configs/pairs.yaml
      testbed plan configs/quickstart.yaml --set repeat=5 --json | jq .expected_s
    """
    from orchestrator.commands.plan_command import plan_file

    plan_file(
        file, overrides or (), stage.value, accelerator=accel.value if accel else None, results=results, as_json=as_json
    )


@_own.command()
def schema() -> None:
    """Print the JSON Schema of experiment files, for editors.

    \b
    Examples:
      testbed schema > experiment.schema.json
    """
    from orchestrator.experiments.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def application(words: Sequence[str] = ()) -> typer.Typer:
    """The command line: all of it, or as much as the command that `words` begin with needs."""
    own = [command.callback.__name__ for command in _own.registered_commands if command.callback]
    if words[:1] and words[0] in own:
        return _own
    app = _empty()
    app.registered_callback = _own.registered_callback
    if words[:1] and words[0] in commands.MODULES:
        commands.add_to(app, words)
    else:
        app.registered_commands += _own.registered_commands
        commands.add_to(app)
    return app


def main() -> NoReturn:
    """Entry point: every end that was thought of has its exit code and no traceback."""
    begin()
    with signals_leave():
        _carry_out()


def _carry_out() -> NoReturn:
    try:
        with signals_raise():
            sys.exit(application(sys.argv[1:])(standalone_mode=False) or 0)
    except Failure as failure:
        _show_failure(failure)
        sys.exit(failure.exit_code)
    except UsageError as error:
        error.show()
        _put_error("error", InputError.__name__, error.format_message(), "`--help` shows what a command takes")
        sys.exit(error.exit_code)
    except Stopped as stopped:
        tell(f"testbed: {stopped}\n")
        _put_error("interrupted", "interrupted", str(stopped), "")
        sys.exit(stopped.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left; Python would complain once more at exit
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - a defect: said to be one, with all there is to report it
        if isinstance(error, OSError) and (known := of_host(error)):
            _show_failure(known)
            sys.exit(known.exit_code)
        _show_defect(error)
        sys.exit(DEFECT_EXIT_CODE)


def _show_failure(failure: Failure) -> None:
    """Message and hint on standard error; with --json the same as JSON on standard output."""
    kind = "" if isinstance(failure, FileError) else "testbed: error: "
    tell(printable(typed(f"{kind}{failure.message}\n")))
    if failure.hint:
        tell(printable(typed(f"hint: {failure.hint}\n")))
    if not isinstance(failure, RunEnded):
        more = {"problems": failure.problems} if isinstance(failure, FileError) else {}
        _put_error("error", type(failure).__name__, failure.message, failure.hint, **more)


def _put_error(outcome: str, kind: str, message: str, hint: str, **more: Any) -> None:
    """With --json, unless a command that was ended has told it itself."""
    if "--json" in itertools.takewhile(lambda word: word != "--", sys.argv) and not anything_put():
        error = {"kind": kind, "message": message, "hint": hint, **more}
        with suppress(Failure):  # standard error has it; standard output may be what failed
            put(json.dumps({"outcome": outcome, "error": error}, indent=2) + "\n")


def _show_defect(error: Exception) -> None:
    tell("".join(traceback.format_exception(error)))
    tell(f"testbed: error: a defect of testbed itself: {type(error).__name__}: {error}\n")
    tell("hint: please report it, with the lines above\n")


if __name__ == "__main__":
    main()
