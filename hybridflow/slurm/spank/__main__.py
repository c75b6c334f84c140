"""``python -m hybridflow.slurm.spank FOLDER``: compile the plugin into a folder."""

import sys

from hybridflow.errors import HybridflowError
from hybridflow.slurm.spank.install import build

if len(sys.argv) != 2:
    sys.exit("usage: python -m hybridflow.slurm.spank FOLDER")
try:
    print(f"==> {build(sys.argv[1])}")
except HybridflowError as error:
    sys.exit(f"error: {error}")
