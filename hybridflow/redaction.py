"""Takes the values of credentials out of a text, before anybody else reads it."""

import re
from collections.abc import Iterable

__all__ = ["redact"]

_SHORTEST = 4
"""What is shorter stands in many words by chance, and is no secret."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return a text with ``***`` in the place of secrets, whoever put them into it.

    Parameters
    ----------
    text
        A log line, a message.
    secrets
        Values of credentials. Each line of one is a secret of its own, without the blanks around
        it: an error that quotes a value writes its line ends in another way.
    """
    parts = {part.strip() for secret in secrets for part in re.split(r"[\x00-\x1f\x7f]", secret)}
    for part in sorted(parts, key=len, reverse=True):  # one may stand inside another
        if len(part) >= _SHORTEST:
            text = text.replace(part, "***")
    return text
