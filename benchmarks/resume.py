"""The rows of a published table so far, so that a benchmark that was stopped goes on where it was."""

import json
from pathlib import Path
from typing import Any


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows that a benchmark wrote to its JSON file before; none without one."""
    return list(json.loads(file.read_text("utf-8"))) if file.is_file() else []
