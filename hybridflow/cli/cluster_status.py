"""``hybridflow cluster status``: how the local cluster is."""

import sys

import click

from hybridflow.cli.cluster_folder import chosen_folder, folder_option

__all__ = ["command"]

_STATUS = "Exit status: 0 if all nodes are up, 3 if some are not, or Slurm does not answer."


@click.command("status", epilog=f"{_STATUS}\n\nExample: hybridflow cluster status")
@folder_option
def command(folder: str | None) -> None:
    """Show the nodes and jobs of the local cluster."""
    from hybridflow.slurm.cluster.background import find_background
    from hybridflow.slurm.cluster.status import job_counts, nodes

    cluster = find_background(chosen_folder(folder))
    found = nodes(cluster)
    click.echo(f"cluster  {cluster.folder}")
    for node in found:
        slots = f"  QPU slots {node.gres}, used {node.gres_used}" if node.gres else ""
        click.echo(f"{node.name:<7}  {node.state}{slots}")
    counts = job_counts(cluster)
    jobs = ", ".join(f"{count} {state.lower()}" for state, count in sorted(counts.items()))
    click.echo(f"jobs     {jobs or 'none'}")
    if not all(node.is_up for node in found):
        sys.exit(3)
