"""What a page must not tell: pages are mailed, so paths lose their folders, secrets their values.

Credentials never reach a run's events (``environment.py``); this is the second fence, for texts
that come from elsewhere: a vendor's message, a user's exception.
"""

import re

__all__ = ["redacted", "shortened"]

_ASSIGNMENT = re.compile(
    r"(?<![\w-])([\w-]+)([\"']?\s*[=:]\s*)(?:(?:bearer|basic)\s+)?(\"[^\"]*\"|'[^']*'|[^\s,;&]+)",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(
    r"api[_-]?key|token|secret|passw|credential|authorization|_QRMI_", re.IGNORECASE
)
_BEARER = re.compile(r"(?i)\b(bearer)\s+[\w.~+/=-]{8,}")
_USERINFO = re.compile(r"(?<=://)[^\s/@]+@")
_FOLDERS = re.compile(r"(?<![\w:/.~])~?/(?:[^\s/\"'<>:;,()]+/)+(?=[^\s/]|$|\s)")
_PRIVATE = "[removed]"
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_LONGEST = 5000


def redacted(text: str) -> str:
    """Return a text without folders of absolute paths, secrets and logins in URLs.

    A very long text loses its end.
    """
    text = shortened(text, _LONGEST)
    text = _without_secrets(text)
    text = _BEARER.sub(lambda found: f"{found[1]} {_PRIVATE}", text)
    text = _USERINFO.sub("", text)
    return _FOLDERS.sub(f"{_ELLIPSIS}/", text)


def _without_secrets(text: str) -> str:
    parts, place = [], 0
    while (found := _ASSIGNMENT.search(text, place)) is not None:
        if _SECRET_NAME.search(found[1]):
            parts += [text[place : found.end(2)], _PRIVATE]
            place = found.end()
        else:
            # What was taken for a value may be an assignment: "VendorJobError: token=…".
            parts.append(text[place : found.start(3)])
            place = found.start(3)
    return "".join([*parts, text[place:]])


def shortened(text: str, most: int = 300) -> str:
    """Return a text of at most `most` characters; an ellipsis stands for what was left out."""
    return text if len(text) <= most else text[: most - 1] + _ELLIPSIS
