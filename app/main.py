"""What ``streamlit run app/main.py`` serves: the pages (router.py), and beside them stored runs at /run/ID.

Streamlit finds ``app`` by reading this file; nothing of the pages is imported here.
"""

from pathlib import Path

from streamlit.starlette import App

from app import run_page

app = App(Path(__file__).with_name("router.py"), routes=run_page.routes())
