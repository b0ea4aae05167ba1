"""`testbed doctor`: whether this host can run the quickstart, and what mends it where it cannot."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.doctor import Finding

CHECK_COLUMNS = 20


def add_to(app: typer.Typer) -> None:
    """Make the command one of `app`."""
    app.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is not as it should be.")] = False,
) -> None:
    """Check this host: what was found, what it means, and the command that mends it.

    The exit code is 0 only when the quickstart will run. Nothing is changed.

    \b
    Examples:
      testbed doctor
      testbed doctor --json | jq '.findings[] | select(.level != "ok")'
    """
    from orchestrator.doctor import Level, found_by, host, programs
    from orchestrator.output import put
    from orchestrator.progress import Progress

    checks = (
        programs.packages,
        programs.qemu,
        programs.libvirt,
        programs.tools,
        programs.accelerator,
        host.kernel,
        host.memory,
        host.space,
        host.cache,
        host.limits,
        host.testbeds,
    )
    findings: list[Finding] = []
    with Progress(quiet=quiet or as_json) as progress, progress.step("checking this host", announced=False):
        for check in checks:
            for finding in found_by(check, progress.say):
                findings.append(finding)
                if not as_json and not (quiet and finding.level is Level.OK):
                    progress.put(_shown(finding))
    problems = [finding for finding in findings if finding.level is Level.PROBLEM]
    if as_json:
        plain = {"ok": not problems, "findings": [finding.as_json() for finding in findings]}
        put(json.dumps(plain, indent=2) + "\n")
    elif not quiet:
        if problems:
            put(f"the quickstart will not run: {', '.join(finding.check for finding in problems)}\n")
        else:
            put("the quickstart will run: testbed run configs/quickstart.yaml\n")
    raise typer.Exit(3 if problems else 0)


def _shown(finding: "Finding") -> str:
    from orchestrator.output import printable

    lines = [f"{finding.level:8} {finding.check:{CHECK_COLUMNS}} {printable(finding.found)}"]
    indent = " " * (8 + 1 + CHECK_COLUMNS + 1)
    if finding.meaning:
        lines.append(f"{indent}{finding.meaning}")
    if finding.mend:
        lines.append(f"{indent}mend: {finding.mend}")
    return "\n".join(lines) + "\n"
