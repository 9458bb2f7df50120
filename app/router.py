"""Router: the pages, and around each of them what all have: sidebar, errors, address, warm-up."""

from pathlib import Path

import streamlit as st

from app import text
from app.components.shared.message import failure
from app.components.sidebar.choice import sidebar
from app.live.models import MODELS
from app.service import Client
from app.state import address as link
from app.state.ending import PageEnd
from app.state.examples import texts

ROOT = Path(__file__).parent.parent
# In the order of the navigation; each is a file of views/, and its path in the address. Not in quotes:
# Streamlit shows a string that stands alone in what it runs.
PAGES = [
    "explore",
    "gate_map",
    "compare",
    "latency",
    "trust",
    "cost",
    "traces",
    "dataset",
    "present",
]

link.read(MODELS, texts(), tuple(text.LANGUAGES))
words = text.load(st.session_state.lang)
st.set_page_config(page_title="SAA", page_icon=str(ROOT / "assets" / "icon.svg"), layout="wide")
if st.context.theme.type == "dark":
    st.html(ROOT / "app" / "components" / "shared" / "dark.css")
page = st.navigation(
    [
        st.Page(
            f"views/{name}.py",
            title=words(f"page.{name}"),
            url_path=None if name == PAGES[0] else name,
            default=name == PAGES[0],
        )
        for name in PAGES
    ]
)
st.logo(str(ROOT / "assets" / "logo.svg"), size="large")
client = Client()

with st.sidebar:
    choice = st.session_state.choice = sidebar(client, words)
    progress = st.empty()

try:
    page.run()
except PageEnd:
    pass
except Exception as error:
    failure(error, words)
link.commit()

if choice.model is not None:
    for step in client.cold(choice.name):
        with progress, st.spinner(words(f"load.warm_{step}")):
            client.warm_up(choice.name, step)
