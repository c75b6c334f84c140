"""``hybridflow init``: a site file for this machine, from what is found on it.

::

    Slurm (slurm/survey.py) ──┐
    qrmi_config.json        ──┼──►  init_text.py  ──►  load_site, as a check  ──►  site.toml
    cores                   ──┘
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hybridflow.errors import InputError

if TYPE_CHECKING:
    from hybridflow.slurm.survey import Survey

__all__ = ["command"]

_QRMI_CONFIG = "/etc/slurm/qrmi_config.json"
_EXAMPLE = "Example: hybridflow init configs/mine.toml --backend aer"


@click.command("init", epilog=_EXAMPLE)
@click.argument("file", default="site.toml", type=click.Path(path_type=Path))
@click.option(
    "--backend", metavar="TYPE", help="Type of the QPUs of which nothing here says what they are."
)
@click.option(
    "--qrmi-config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"Resource definitions of the QRMI plugin [default: {_QRMI_CONFIG}, if it is there].",
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def command(file: Path, backend: str | None, qrmi_config: Path | None, force: bool) -> None:
    """Write a commented site file for this machine: FILE, or site.toml.

    Asks Slurm, if there is one, for its partitions, QPUs (GRES of the type `qpu`) and licences,
    and reads names and types from qrmi_config.json, never its keys. QPUs of an unknown type are
    written as comments, since a simulation in place of a QPU would be a lie; --backend says what
    they are. A local simulator is always there, as `simulator`.
    """
    from hybridflow.backends.registry import backend_type
    from hybridflow.cli.init_text import Found, site_text
    from hybridflow.site import load_site

    if file.exists() and not force:
        raise InputError(f"{file} is there already: name another file, or replace it with --force")
    if backend is not None:
        backend_type(backend)
    found = Found(
        cores=len(os.sched_getaffinity(0)),
        slurm=_slurm(),
        types=_types(qrmi_config),
        config=str((qrmi_config or Path(_QRMI_CONFIG)).absolute()),
        backend=backend,
    )
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_text(site_text(found), encoding="utf-8")
        load_site(unfinished)
        # A link, unlike a rename, does not replace what has come in the meantime.
        unfinished.replace(file) if force else file.hardlink_to(unfinished)
    except FileExistsError as error:
        raise InputError(f"{file} is there already: replace it with --force") from error
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    for line in found.summary():
        click.echo(line)
    click.echo(f"wrote {file}; check it with: hybridflow doctor --site {file}")


def _slurm() -> "Survey | None":
    # A Slurm that does not answer just now is no reason to write a file without it.
    from hybridflow.errors import SlurmError
    from hybridflow.slurm.survey import survey

    try:
        return survey()
    except SlurmError as error:
        if error.transient:
            raise
        return None


def _types(file: Path | None) -> dict[str, str]:
    # Names and types of the resources; nothing of what else stands there, which is secret.
    chosen = file or Path(_QRMI_CONFIG)
    try:
        entries = json.loads(chosen.read_bytes())["resources"]
        return {str(entry["name"]): str(entry["type"]) for entry in entries}
    except OSError as error:
        if file is None:
            return {}
        raise InputError(f"{chosen} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        # Without the parser's words, which may quote a key.
        raise InputError(
            f'{chosen} is not what it should be: {{"resources": [{{"name": …, "type": …}}]}}'
        ) from None
