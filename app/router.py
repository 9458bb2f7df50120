"""Router: the pages in their groups, and around each of them what all have: sidebar, errors, address."""

from pathlib import Path

import streamlit as st

from app import text
from app.components.shared.message import failure
from app.components.sidebar.choice import Needs, begin, sidebar
from app.live.background import BACKGROUND
from app.live.models import MODELS
from app.service import Client
from app.state import address as link
from app.state.ending import PageEnd
from app.state.examples import texts

ROOT = Path(__file__).parent.parent
# Group by group, in the order of the navigation; each page is a file of views/, and its path in the address,
# and has the controls that it uses. Not in quotes: Streamlit shows a string that stands alone in what it runs.
PAGES = {
    "understand": {
        "explore": Needs(model=True, recording=True, patient=True),
        "tour": Needs(),
        "gate_map": Needs(model=True, recording=True, patient=True),
        "compare": Needs(model=True),
    },
    "decide": {
        "latency": Needs(model=True, recording=True),
        "cost": Needs(model=True),
        "trust": Needs(model=True, recording=True),
    },
    "evidence": {"traces": Needs(), "dataset": Needs(on_request=True)},
    "present": {"present": Needs()},
}
FIRST = "explore"

link.read(MODELS, texts(), tuple(text.LANGUAGES))
begin()
words = text.load(st.session_state.lang)
icon = str(ROOT / "assets" / "icon.svg")
st.set_page_config(page_title="SAA", page_icon=icon, layout="wide")
if st.context.theme.type == "dark":
    st.html(ROOT / "app" / "components" / "shared" / "dark.css")
needs = {name: need for group in PAGES.values() for name, need in group.items()}
pages = {
    name: st.Page(
        f"views/{name}.py",
        title=words(f"page.{name}"),
        url_path=None if name == FIRST else name,
        default=name == FIRST,
    )
    for name in needs
}
page = st.navigation(list(pages.values()), position="hidden")
if page is pages["present"]:  # nothing beside the slide
    st.set_page_config(initial_sidebar_state="collapsed")
st.logo(str(ROOT / "assets" / "logo.svg"), size="large")

with st.sidebar:
    # Streamlit's own menu puts the groups' titles between the items of a list, which screen readers lose.
    for group, names in PAGES.items():
        st.caption(words(f"section.{group}"))
        for each in names:
            st.page_link(pages[each])
    st.divider()
    name = page.url_path or FIRST
    choice = st.session_state.choice = sidebar(Client(), needs[name], words)

try:
    page.run()
except PageEnd:
    pass
except Exception as error:
    failure(error, words)
link.commit()

if choice.model is not None:
    BACKGROUND.start(choice.name)
