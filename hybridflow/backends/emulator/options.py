"""The keys of a site file's ``[qpu.NAME]`` table with ``backend = "emulator"``."""

from urllib.parse import urlsplit

import msgspec

__all__ = ["EmulatorOptions"]


class EmulatorOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend ``emulator``.

    Attributes
    ----------
    url
        Address of the service, such as ``http://127.0.0.1:8750``.
    resource
        Name of the resource at the service; without it, the name it has in the site file.
    timeout_seconds
        Patience with an answer of the service.
    """

    url: str = "http://127.0.0.1:8750"
    resource: str = ""
    timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"`url` is no address: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`url` begins with http:// or https:// and a host, not {self.url!r}")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("`url` has no user, password, query or fragment")
        if not 0 < self.timeout_seconds < float("inf"):
            raise ValueError(f"`timeout_seconds` must be above 0, not {self.timeout_seconds}")
