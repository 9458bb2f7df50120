"""Dying at a chosen moment: a process that kills itself at one of its operations on files."""

import os
import signal
import sys

OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


def die_at_operation(count: int) -> None:
    """From now on, SIGKILL for this process at its so-manyth operation on files."""
    left = count

    def watch(event: str, _arguments: object) -> None:
        nonlocal left
        if event in OPERATIONS:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
