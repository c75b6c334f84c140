"""Rows of words as a table in columns, as commands print it."""

from collections.abc import Sequence

import click

__all__ = ["echo_table"]


def echo_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of equal length, the first of which has the titles."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
