"""Make the pictures of the README from a real run: ``python docs/images/render.py``.

``run.svg`` is what the terminal showed, ``report.png`` the top of the run's report. Needs Chromium
on the PATH, and a quiet machine: the times in the pictures are those of the run.
"""

import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COMMAND = "hybridflow run sqd --site configs/laptop.toml --control --output {folder}"
SHOWN_FOLDER = "runs/h2o"
WIDTH = 96
WINDOW = "1300,995"


def main() -> None:
    """Run the workflow of the demo in a folder of its own, and picture it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "h2o"
        screen = run(COMMAND.format(folder=folder))
        draw_terminal(screen.replace(str(folder), SHOWN_FOLDER), HERE / "run.svg")
        draw_page(folder / "report.html", HERE / "report.png", profile=Path(place) / "chromium")


def run(command: str) -> str:
    """Run a command on a terminal; return all that the terminal got."""
    received = bytearray()

    def read(leader: int) -> bytes:
        data = os.read(leader, 65536)
        received.extend(data)
        return data

    os.environ |= {"COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    status = pty.spawn(command.split(), read)
    if status:
        sys.exit(f"{command} ended with status {os.waitstatus_to_exitcode(status)}")
    return received.decode()


def draw_terminal(screen: str, file: Path) -> None:
    """Draw the lines that stayed on the terminal when the run had ended."""
    console = Console(record=True, width=WIDTH, force_terminal=True, file=io.StringIO())
    console.print(Text.assemble(("$ ", "green"), (COMMAND.format(folder=SHOWN_FOLDER), "bold")))
    for line in screen.rstrip().split("\r\n"):
        # What stays stands behind the last erasure of the line that moved.
        console.print(Text.from_ansi(line.rpartition("\x1b[2K")[2].rpartition("\r")[2]))
    first, last = CONSOLE_SVG_FORMAT.index("@font-face"), CONSOLE_SVG_FORMAT.index(".{unique_id}-m")
    # Without the fonts, which would be loaded from the network.
    form = CONSOLE_SVG_FORMAT[:first] + CONSOLE_SVG_FORMAT[last:]
    console.save_svg(str(file), title="hybridflow run sqd", code_format=form)


def draw_page(page: Path, file: Path, profile: Path) -> None:
    """Draw the top of a page as a browser shows it."""
    browser = shutil.which("chromium") or sys.exit("Chromium is not installed")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--disable-background-networking", "--no-first-run", "--virtual-time-budget=8000"]
    options += [f"--user-data-dir={profile}", f"--window-size={WINDOW}", f"--screenshot={file}"]
    subprocess.run([browser, *options, page.as_uri()], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
