"""``hybridflow cluster up``: starts a local Slurm cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hybridflow.cli.cluster_folder import chosen_folder, folder_option

if TYPE_CHECKING:
    from hybridflow.slurm.cluster.background import BackgroundCluster

__all__ = ["command"]

_EXAMPLE = """\b
Example: hybridflow cluster up --nodes 3 --qpu aer_a:1 --qpu aer_b:2; then
  eval "$(hybridflow cluster env)"
  srun --qpu=aer_a hybridflow slot show
"""


@click.command("up", epilog=_EXAMPLE)
@click.option(
    "--nodes",
    type=int,
    default=3,
    show_default=True,
    help="Nodes in all: q1, which has the QPU slots, and c1, c2, …",
)
@click.option(
    "--qpu",
    "qpus",
    metavar="NAME:SLOTS",
    multiple=True,
    help="A QPU of node q1, as GRES, and its slots; repeatable.",
)
@click.option(
    "--license",
    "licenses",
    metavar="NAME:SLOTS",
    multiple=True,
    help="A QPU that belongs to no node, as licence; repeatable.",
)
@click.option("--accounting", is_flag=True, help="With a database of finished jobs, for sacct.")
@click.option(
    "--plugin/--no-plugin",
    default=True,
    show_default=True,
    help="Whether jobs ask for slots with --qpu=NAME; compiles the SPANK plugin.",
)
@click.option(
    "--definitions",
    metavar="FILE",
    help="Definitions of the QPUs, mode 0600 [default: each is of type aer].",
)
@folder_option
def command(
    nodes: int,
    qpus: Sequence[str],
    licenses: Sequence[str],
    accounting: bool,
    plugin: bool,
    definitions: str | None,
    folder: str | None,
) -> None:
    """Start a real Slurm cluster of several nodes on this machine.

    It has its own munge, slurmctld and slurmd daemons on free ports, and touches no other Slurm.
    Root's runs the jobs of all users, anybody else's those of its owner. It lives until `hybridflow
    cluster down`.
    """
    from hybridflow.progress import Display
    from hybridflow.slurm.cluster.background import Options, start_background

    options = Options(
        nodes=nodes,
        qpus=_slots(qpus, "--qpu"),
        licenses=_slots(licenses, "--license"),
        accounting=accounting,
        plugin=plugin,
        definitions=str(Path(definitions).absolute()) if definitions else None,
        folder=str(chosen_folder(folder)),
    )
    with Display() as display, display.phase(f"start {nodes} nodes"):
        cluster = start_background(options)
    _show(cluster, folder)


def _slots(given: Sequence[str], option: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in given:
        name, _, count = text.partition(":")
        if not (count.isascii() and count.isdigit()):
            raise click.BadParameter(f"{text!r} is not NAME:SLOTS, as aer_a:1", param_hint=option)
        if name in found:
            raise click.BadParameter(f"the QPU {name!r} is named twice", param_hint=option)
        found[name] = int(count)
    return found


def _show(cluster: "BackgroundCluster", folder: str | None) -> None:
    where = f" --folder {folder}" if folder else ""
    options = cluster.options
    qpus = [f"{name}:{slots}" for name, slots in (options.qpus | options.licenses).items()]
    click.echo(f"nodes  {' '.join(cluster.nodes)}")
    click.echo(f"QPUs   {' '.join(qpus) or 'none'}")
    click.echo(f"logs   {cluster.folder / 'log'}")
    click.echo(f'use    eval "$(hybridflow cluster env{where})"; sinfo')
    click.echo(f"end    hybridflow cluster down{where}")
