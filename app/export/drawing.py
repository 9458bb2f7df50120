"""A Vega-Lite chart as PNG or SVG, drawn offline by vl-convert in a process of its own.

Of its own, because the library ends its process where it meets what it did not expect (version 1.9 does
so at a control character in a text), and that process must not be the one that serves the pages.
"""

import subprocess
import sys
from pathlib import Path

from saa_core import SAAError

SECONDS = 60
"""A drawing that takes longer is given up."""
PROGRAM = Path(__file__).with_name("draw_chart.py")


def draw(specification: str, kind: str) -> bytes:
    """The picture.

    Args:
        specification: Vega-Lite.
        kind: "png" or "svg".

    Raises:
        SAAError: the chart cannot be drawn.
    """
    command = [sys.executable, "-I", str(PROGRAM), kind]
    try:
        done = subprocess.run(
            command, input=specification.encode(), capture_output=True, timeout=SECONDS, check=True
        )
    except subprocess.TimeoutExpired as error:
        raise SAAError(f"the {kind} took more than {SECONDS} s to draw and was given up") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise SAAError(f"the {kind} cannot be drawn: {said[-1] if said else error}") from error
    return done.stdout
