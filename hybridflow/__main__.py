"""``python -m hybridflow``: the command line."""

from hybridflow.cli import main

main(prog_name="hybridflow")
