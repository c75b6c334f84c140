"""A run as a live page on this machine: what ``hybridflow top`` shows, in a browser.

::

    RunWatch, SlurmPoll ──►  server.py  /state (JSON)  ──►  page.js, twice a second  ──►  page.html

The page is served on the loopback alone, to whoever has the token that the command prints: other
users of the machine can reach the port, but see nothing. Nothing is loaded from elsewhere.
"""

from hybridflow.dashboard.server import Dashboard, serve

__all__ = ["Dashboard", "serve"]
