"""What a model wrote, next to what the other wrote."""

from app.components.shared.continuations import mark


def test_continuations_escape_what_a_model_wrote() -> None:
    left, right = mark(" a <b>x</b> c", " a <i>y</i> c")
    assert left == " a<mark> &lt;b&gt;x&lt;/b&gt;</mark> c"
    assert right == " a<mark> &lt;i&gt;y&lt;/i&gt;</mark> c"
