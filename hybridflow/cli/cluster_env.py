"""``hybridflow cluster env``: what a shell needs to talk to the local cluster."""

import shlex

import click

from hybridflow import environment
from hybridflow.cli.cluster_folder import chosen_folder, folder_option

__all__ = ["command"]


@click.command(
    "env",
    epilog='Example: hybridflow cluster env; in a shell: eval "$(hybridflow cluster env)"; squeue',
)
@folder_option
def command(folder: str | None) -> None:
    """Print lines for `eval` with which Slurm's commands talk to the local cluster.

    Hybridflow's own learn its QPUs from a site file, unless HYBRIDFLOW_SITE names one already.
    """
    from hybridflow.slurm.cluster.background import find_background

    cluster = find_background(chosen_folder(folder))
    for name, value in cluster.environ.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    if cluster.site is not None:
        # A site file that the user has chosen stays.
        kept = f"${{{environment.SITE}:-{cluster.site}}}"
        click.echo(f'export {environment.SITE}="{kept}"')
