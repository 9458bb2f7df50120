"""What ``streamlit run app/main.py`` serves: the pages (router.py), and beside them stored runs at /run/ID.

Streamlit finds ``app`` by reading this file; nothing of the pages is imported here.
"""

import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamlit.starlette import App

# `streamlit run` puts this folder on the path; the package ``app`` lies in the one above.
if (ROOT := str(Path(__file__).resolve().parent.parent)) not in sys.path:
    sys.path.insert(0, ROOT)

from app import run_page


@asynccontextmanager
async def lifespan(_app: App) -> AsyncIterator[dict[str, Any]]:
    """The first model is loaded while the first visitor reads what was recorded."""
    threading.Thread(target=_prepare, daemon=True).start()
    yield {}


def _prepare() -> None:
    from app.live.background import BACKGROUND
    from app.service import Client

    def prepare(name: str, report: Any) -> None:
        client = Client()
        client.model(name, report)
        for step in client.cold(name):
            client.warm_up(name, step)

    BACKGROUND.prepare = prepare
    BACKGROUND.start()


app = App(Path(__file__).with_name("router.py"), routes=run_page.routes(), lifespan=lifespan)
