"""A bar per layer: how much of it was computed, blue, of what dense attention computes, grey."""

import numpy as np
import streamlit as st

from app.charts.palette import palette
from app.text import Words
from saa_core import Trace


def layer_strip(trace: Trace, words: Words) -> None:
    """Pairs that each layer computed, or would; nothing of a dense run."""
    if trace.policy is None:
        return
    share = trace.density.mean(1)
    colours = palette(st.context.theme.type == "dark")
    about = words(
        "strip.layers",
        low=words.percent(float(1 - share.max())),
        high=words.percent(float(1 - share.min())),
        most=int(np.argmin(share)),
    )
    bars = "".join(
        f'<span title="{words("strip.layer", layer=layer, share=words.percent(float(1 - kept)))}" '
        f'style="flex:1;border-radius:2px;background:linear-gradient(to top,{colours.kept} '
        f'{100 * kept:.1f}%,{colours.dropped} 0)"></span>'
        for layer, kept in enumerate(share.tolist())
    )
    st.html(
        f'<div role="img" aria-label="{about}" style="display:flex;gap:2px;height:2.4rem">{bars}</div>'
    )
    st.caption(about)
