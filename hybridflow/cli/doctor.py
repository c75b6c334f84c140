"""``hybridflow doctor``: what is wrong here, and what to do about it."""

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hybridflow.doctor import Finding

__all__ = ["command"]

_COLOURS = {"ok": "green", "hint": "yellow", "problem": "red"}
_MARGIN = 9
_STATUS = """\b
Exit status: 0 if there is no problem, 2 if there is one.
"""


@click.command(
    epilog=f"{_STATUS}\n\nExample: hybridflow doctor --site configs/slurm.toml",
)
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(site: str | None, as_json: bool) -> None:
    """Say what is wrong with this site, job or environment, and what to do.

    Run it where things go wrong: on the login node, in the job's script, or in a step of it. It
    looks and asks, and changes nothing.
    """
    from hybridflow.doctor import Surroundings, examine

    findings = examine(Surroundings(os.environ, site))
    if as_json:
        _print_json(findings)
    else:
        _print_text(findings)
    sys.exit(2 if _count(findings, "problem") else 0)


def _count(findings: "list[Finding]", level: str) -> int:
    return sum(finding.level == level for finding in findings)


def _print_json(findings: "list[Finding]") -> None:
    import msgspec

    counts = {f"{level}s": _count(findings, level) for level in ("problem", "hint")}
    click.echo(msgspec.json.encode({**counts, "findings": findings}).decode())


def _print_text(findings: "list[Finding]") -> None:
    width = min(100, shutil.get_terminal_size().columns)
    for finding in findings:
        level = click.style(f"{finding.level:<{_MARGIN}}", fg=_COLOURS[finding.level])
        # A finding that all is well needs no place to look at.
        lines = [finding.text]
        if finding.cure:
            lines += [f"where: {finding.where}", f"do: {finding.cure}"]
        click.echo(level + _block(lines, width)[_MARGIN:])
    problems, hints = _count(findings, "problem"), _count(findings, "hint")
    click.echo(f"\n{problems} problem{'s' * (problems != 1)}, {hints} hint{'s' * (hints != 1)}")


def _block(lines: list[str], width: int) -> str:
    margin = " " * _MARGIN
    return "\n".join(
        textwrap.fill(
            line,
            width,
            initial_indent=margin,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines
    )
