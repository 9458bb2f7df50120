"""Structured logs: one JSON object a line on standard error, without a word of anybody's text.

What may stand in a line is named by whoever logs it (``extra={"saa": {...}}``). Of an exception only its type and
the places in the code are written: its message could quote a text.
"""

import json
import logging
import sys
import time
import traceback


class Lines(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        about = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.msg if record.name == "saa.serve" else record.name,
        }
        own = getattr(record, "saa", None)
        if isinstance(own, dict):
            about |= own
        elif record.name != "saa.serve" and record.exc_info and record.exc_info[1] is not None:
            about |= {"error": type(record.exc_info[1]).__name__, "at": frames(record.exc_info[1])}
        return json.dumps(about, default=str)


def start_logging(level: int = logging.INFO) -> None:
    """All loggers of this process write such lines; those of libraries only what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("saa.serve").setLevel(level)


def frames(error: BaseException, most: int = 6) -> list[str]:
    """Where an exception came from, innermost last, without its message."""
    found = traceback.extract_tb(error.__traceback__)[-most:]
    return [f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno}" for frame in found]
