"""What ``streamlit run app/main.py`` serves: the pages (router.py), and beside them stored runs at /run/ID.

Streamlit finds ``app`` by reading this file; nothing of the pages is imported here.
"""

import sys
from pathlib import Path

from streamlit.starlette import App

# `streamlit run` puts this folder on the path; the package ``app`` lies in the one above.
if (ROOT := str(Path(__file__).resolve().parent.parent)) not in sys.path:
    sys.path.insert(0, ROOT)

from app import run_page

app = App(Path(__file__).with_name("router.py"), routes=run_page.routes())
