"""Loads models while people already read: one thread per model, started once, of which nobody waits.

Only a served app starts it (main.py); without it a model is loaded when a page first needs it.
"""

import logging
import threading
from collections.abc import Callable

import saa_core as saa
from saa_core.data import fetch
from saa_core.data.titles import FIRST, parts_of
from saa_core.types import StepProgress

Prepare = Callable[[str, StepProgress], None]
"""Loads a model and runs it once; reports what it does."""


class Background:
    """Which models are being prepared.

    Args:
        prepare: see :data:`Prepare`; None until the app is served.
    """

    def __init__(self, prepare: Prepare | None = None) -> None:
        self.prepare = prepare
        self._threads: dict[str, threading.Thread] = {}
        self._failed = set[str]()
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        return self.prepare is not None

    def start(self, name: str = FIRST) -> bool:
        """Begins to prepare a model, if nobody has; False if nothing runs: the app is not served, the model
        could not be loaded before, or is not on this machine and is fetched only when it is needed."""
        prepare = self.prepare
        if prepare is None or name in self._failed or not is_here(name):
            return False
        with self._lock:
            if not self._alive(name):
                thread = threading.Thread(target=self._run, args=(prepare, name), daemon=True)
                self._threads[name] = thread
                thread.start()
        return True

    def busy(self, name: str) -> bool:
        with self._lock:
            return self._alive(name)

    def _alive(self, name: str) -> bool:
        thread = self._threads.get(name)
        return thread is not None and thread.is_alive()

    def _run(self, prepare: Prepare, name: str) -> None:
        try:
            prepare(name, lambda _what, _done, _total: None)
        except Exception as error:  # whoever asks for the model is told why
            logging.getLogger("saa.app").warning("could not prepare %s", name, exc_info=error)
            self._failed.add(name)


def is_here(name: str) -> bool:
    """Whether a model of the list lies on this machine."""
    try:
        model = parts_of(name).model
    except saa.ModelError:
        return False
    return model in fetch.models() and fetch.present(fetch.model_dir(model))


BACKGROUND = Background()
"""Of this process."""
