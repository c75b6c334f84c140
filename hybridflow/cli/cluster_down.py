"""``hybridflow cluster down``: ends the local cluster."""

import click

from hybridflow.cli.cluster_folder import chosen_folder, folder_option

__all__ = ["command"]


@click.command("down", epilog="Example: hybridflow cluster down")
@folder_option
def command(folder: str | None) -> None:
    """End the local cluster with all its jobs; nothing of it is left."""
    from hybridflow.progress import Display
    from hybridflow.slurm.cluster.background import end_background, find_background

    cluster = find_background(chosen_folder(folder))
    with Display() as display, display.phase(f"end {len(cluster.nodes)} nodes"):
        end_background(cluster)
