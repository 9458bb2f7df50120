"""What the pictures of several benchmarks share."""

from typing import Any

import altair as alt


def ratio_chart(points: list[dict[str, Any]], against: str, width: int) -> alt.LayerChart:
    """How many times faster, by tokens: medians, quartiles, and a line at 1.

    Args:
        points: with tokens, what, low, x and high each.
        against: what it is faster than.
    """
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("tokens:O", title="tokens", axis=alt.Axis(labelAngle=0)),
        color=alt.Color("what:N", title=None),
    )
    one = alt.Chart(alt.Data(values=[{"y": 1}])).mark_rule(strokeDash=[4, 4]).encode(y="y:Q")
    lines = base.mark_line(point=True).encode(y=alt.Y("x:Q", title=f"times faster than {against}"))
    spread = base.mark_rule().encode(y="low:Q", y2="high:Q")
    return (lines + spread + one).properties(
        width=width, height=260, title="Quartiles of interleaved rounds"
    )
