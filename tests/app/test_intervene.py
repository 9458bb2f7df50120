"""Overruling the gate and ranking blocks on the page, against the library; forces in the address."""

import pytest

import saa_core as saa
from app import service, text
from app.state import address as link
from saa_core.explain.effects import blocks, effects
from tests.app.test_app import TEXT, app, page_text, press

pytestmark = pytest.mark.model


def gate_map(**address: str):
    at = press(app(layer="5", head="2", q="40", k="7", **address).run(), TEXT)
    return at.switch_page("views/gate_map.py").run()


def test_a_person_overrules_the_gate_and_takes_it_back() -> None:
    at = gate_map()
    model = service.Client().model("smollm2")
    kept = saa.run(model, TEXT, model.spec.policy).keep_map(5, 2)[40, 7]
    at.button(key="force_drop" if kept else "force_keep").click().run()
    assert not at.exception
    entry = saa.Force(keep=not kept, layer=5, head=2, query=40, key=7)
    shown = at.session_state["shown"]
    assert shown.policy.force == (entry,)
    words = text.load("en")
    card = "\n".join(m.value for m in at.markdown)
    assert words("inspector.excluded" if kept else "inspector.forced") in card
    assert at.query_params["force"] == link.forces_text((entry,))
    assert list(at.table[0].value.index) == ["the gate alone", "with your changes"]
    assert "decisions: 1" in page_text(at)
    at.button(key="force_back_0").click().run()
    assert at.session_state["shown"].policy.force == ()
    assert "force" not in at.query_params
    assert not at.table


def test_a_link_forces_what_it_says() -> None:
    at = app(text=TEXT, force="-K3,+L2.H1").run()
    (request,) = at.session_state["results"]
    assert request.policy.force == (saa.Force(keep=False, key=3), saa.Force(layer=2, head=1))
    at.selectbox(key="model").set_value("minilm").run()
    assert not at.session_state["choice"].policy.force, "another model begins without"


def test_blocks_are_ranked_by_what_leaving_them_out_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saa_core.explain.effects.BLOCKS", 6)
    at = gate_map()
    at.button(key="effects_start").click().run()
    while at.session_state["effects_running"]:
        at.run()
    assert not at.exception
    assert not at.error
    model = service.Client().model("smollm2")
    trace = saa.run(model, TEXT, model.spec.policy)
    expected = sorted(effects(model, trace, 5), key=lambda effect: -effect.distance)
    assert len(expected) == len(blocks(trace, 5))
    rows = next(e.value for e in at.dataframe if "pairs left out" in e.value)
    assert list(rows["KL from the whole run, nats"]) == [f"{e.distance:.4f}" for e in expected[:10]]
    assert not [button for button in at.button if button.key in ("effects_start", "effects_stop")]
