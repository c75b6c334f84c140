"""Backend ``qrmi``: QPUs behind the ``qrmi`` wheel, which the plugin of arXiv 2506.10052 uses."""

from hybridflow.backends.qrmi.backend import QrmiBackend
from hybridflow.backends.qrmi.options import QrmiOptions

__all__ = ["QrmiBackend", "QrmiOptions"]
