"""``hybridflow qpu-emulator``: an emulated QPU as a service, from the command line."""

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hybridflow.emulator.config import Config

__all__ = ["command"]

_SITE = """\b
The site file for it:
  [qpu.NAME]
  backend = "emulator"
  url = "http://127.0.0.1:8750"
"""
_EXAMPLE = "Example: hybridflow qpu-emulator --resource qpu --seconds-per-job 2"


@click.command("qpu-emulator", epilog=f"{_SITE}\n\n{_EXAMPLE}")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8750,
    show_default=True,
    help="Port; 0: a free one.",
)
@click.option(
    "--config",
    metavar="FILE",
    help="TOML of resources, keys and bounds; -: one line of JSON on standard input.",
)
@click.option("--resource", "names", metavar="NAME", multiple=True, help="Resource; repeatable.")
@click.option("--device", metavar="NAME", help="Fake device of qiskit-ibm-runtime: FakeTorino, …")
@click.option("--seconds-per-job", type=float, metavar="S", help="Fixed cost of a vendor job.")
@click.option("--seconds-per-circuit", type=float, metavar="S", help="Cost of a circuit.")
@click.option("--seconds-per-shot", type=float, metavar="S", help="Cost of a shot.")
@click.option("--time-scale", type=float, metavar="X", help="Seconds for a second of the device.")
@click.option("--no-tags", is_flag=True, help="Jobs cannot be found by their tag.")
@click.option("--until-eof", is_flag=True, help="End when standard input ends.")
def command(
    host: str,
    port: int,
    config: str | None,
    names: tuple[str, ...],
    no_tags: bool,
    until_eof: bool,
    **options: Any,
) -> None:
    """Serve emulated QPUs: Aer's results with a real device's behaviour.

    Each resource has one queue for all its users and executes one vendor job at a time. The address
    is the first line that is printed; Ctrl-C or SIGTERM ends the service, and what it knows.
    """
    from hybridflow.emulator.command import serve_until_stopped

    given = {key: value for key, value in options.items() if value is not None}
    if no_tags:
        given["tags"] = False
    if config is not None and (names or given):
        raise click.UsageError("--config says it all: it goes with no option of a resource")
    serve_until_stopped(_chosen(config, names, given), host, port, until_eof=until_eof)


def _chosen(config: str | None, names: tuple[str, ...], options: dict[str, Any]) -> "Config":
    from hybridflow.emulator.config import configured, load_config, read_config

    if config is None:
        return configured(names or ("emulated",), options)
    return read_config(sys.stdin.fileno()) if config == "-" else load_config(config)
