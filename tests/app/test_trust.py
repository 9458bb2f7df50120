"""The Trust page without a browser: what it shows against what the library says."""

from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app import service, text
from app.charts import trust as trust_charts
from app.components.trust import trust
from app.live.models import REGISTRY
from app.live.values import GuardTrial, GuardTrialResult
from app.state import session
from saa_core.certify import slices
from saa_core.certify.certificate import Setting
from saa_core.certify.degradation import DegradationMeter
from saa_core.explain.damage import KINDS
from saa_core.gates.reliability import Bin, Diagram, MassCalibrator, Reliability
from tests.app.recorded import recorded_client
from tests.app.test_app import TEXT, app, page_text, press, press_trace

pytestmark = pytest.mark.model

MODEL = "minilm"
WORDS = text.load("en")


def diagram(off: float) -> Diagram:
    bins = tuple(Bin(said, said + off, 10) for said in (0.8, 0.9))
    return Diagram(bins, abs(off), ((0.0, abs(off)), (abs(off), 0.03)))


RELIABILITY = Reliability(
    pairwise=True,
    maps=(MassCalibrator((0.0, 0.0), (1.0, 1.0)),) * 2,
    before=diagram(0.05),
    after=diagram(-0.01),
    about={"fitted": ["a"], "judged": ["b"], "lengths": [64], "masses": [0.9]},
)


def trust_page(**address: str) -> AppTest:
    at = app(model=MODEL, **address)
    at.switch_page("views/trust.py")
    return at.run()


@pytest.fixture(scope="module")
def checked() -> AppTest:
    """The page after a negated gate was tried. Tests only read it."""
    with recorded_client(run=False):
        at = press(app(model=MODEL).run(), TEXT)
        at.switch_page("views/trust.py").run()
        at.session_state["damage"] = "negated"
        at.run()
        return at.button(key="try").click().run()


@pytest.fixture
def tried(checked: AppTest) -> GuardTrialResult:
    (found,) = checked.session_state["tried"].values()
    return found


def test_a_first_visit_says_where_to_begin_and_begins() -> None:
    at = trust_page()
    assert not at.exception
    assert any("Nothing to check yet" in info.value for info in at.info)
    at.button(key="use-example").click().run()
    assert at.button(key="try")
    assert any("Choose a state of the gate" in info.value for info in at.info)


def test_both_sides_of_a_trial_are_what_the_traces_say(checked, tried) -> None:
    assert not checked.exception
    assert tried.trial.damage == "negated"
    shown = [metric.value for metric in checked.metric]
    for trace in (tried.blind, tried.guarded):
        assert WORDS.percent(1 - trace.retained_mass.mean(), 1) in shown
        assert WORDS.percent(1 - trace.sparsity, 1) in shown
    blind, guarded = (1 - trace.retained_mass.mean() for trace in (tried.blind, tried.guarded))
    assert blind > 0.05 >= guarded
    assert "would have been missed and nobody told" in checked.header[0].value
    result = next(e for e in tried.guarded.events if e["suspected"] == "result")
    assert WORDS.percent(result["bound"], 1) in shown
    assert guarded <= result["bound"]


def test_every_correction_is_a_line_of_the_table(checked, tried) -> None:
    own = trust.find_noticed(tried.guarded.events)
    rows = checked.dataframe[0].value
    assert len(rows) == len(own) > 0
    assert list(rows["Layer"]) == [str(event["layer"]) for event in own]
    assert set(rows["Suspected"]) <= {
        WORDS(f"trust.suspected_{kind}") for kind in ("missed", "scores", "reserve", "bound")
    }


def test_the_loaded_model_is_not_what_was_damaged(checked, tried) -> None:
    model = service.Client().model(MODEL)
    fresh = saa.load(MODEL, device="cpu")
    for own, shipped in zip(model.gates, fresh.gates, strict=True):
        assert (own.query == shipped.query).all()
    assert tried.trial.damage not in REGISTRY.loaded
    again = saa.run(model, TEXT, tried.trial.request.policy)
    assert (again.hidden == saa.run(fresh, TEXT, tried.trial.request.policy).hidden).all()


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_every_state_of_the_gate_can_be_tried_and_keeps_the_limit(kind, checked, tried) -> None:
    request = tried.trial.request
    dense = saa.run(session.Client().original(MODEL), TEXT)
    trial = GuardTrial(request, saa.Guard(), kind)
    steps: list[str] = []
    found = session.Client().attempt(trial, dense, lambda step, done, **known: steps.append(step))
    assert trust.missed_mass(found.guarded) <= 0.05
    assert set(steps) <= {name.partition(".")[2] for name in WORDS.table if "progress." in name}
    assert 0 <= min(found.alike) <= max(found.alike) <= 1.001
    assert found.blind.events == ()
    assert WORDS(f"trust.damage_{kind or trust.AS_IT_IS}")


def test_a_task_and_a_recording_say_why_nothing_can_be_tried(tried, tmp_path) -> None:
    at = press(app(model="minilm + sentences").run(), "A pleasant surprise from start to end.")
    at.switch_page("views/trust.py").run()
    assert any("Tasks drop whole tokens" in info.value for info in at.info)
    content = tried.guarded.save(tmp_path / "run.saa").read_bytes()
    at = press_trace(trust_page(), content)
    assert any("no model behind it" in info.value for info in at.info)
    assert len(at.dataframe[0].value) == len(trust.find_noticed(tried.guarded.events))


def test_a_gate_that_was_measured_shows_its_diagram(monkeypatch: pytest.MonkeyPatch) -> None:
    model = service.Client().model(MODEL)
    spec = replace(model.spec, reliability=(RELIABILITY,))
    monkeypatch.setitem(REGISTRY._models, MODEL, replace(model, spec=spec))
    at = trust_page()
    shown = {metric.label: metric.value for metric in at.metric}
    assert shown[WORDS("trust.error")] == "1.00 points"
    assert shown[WORDS("trust.worst")] == "3.00 points"
    assert "a and judged on other texts: b" in page_text(at)
    unmeasured = replace(model.spec, reliability=())
    monkeypatch.setitem(REGISTRY._models, MODEL, replace(model, spec=unmeasured))
    assert "saa reliability" in trust_page().code[0].value


def test_charts_hold_every_bin_head_and_layer(tried) -> None:
    drawn = trust_charts.reliability(RELIABILITY, WORDS, False).to_dict()
    sizes = sorted(len(rows) for rows in drawn["datasets"].values())
    assert sizes == [2, 4]
    heads = trust_charts.head_errors(RELIABILITY, WORDS, True).to_dict()
    (rows,) = heads["datasets"].values()
    assert [row["after"] for row in rows] == pytest.approx([0, 1, 1, 3])
    layers = trust_charts.missed_by_layer(tried.blind, tried.guarded, 0.05, WORDS, False).to_dict()
    rows = max(layers["datasets"].values(), key=len)
    blind = [row["missed"] for row in rows if row["kind"] == WORDS("trust.without")]
    np.testing.assert_allclose(blind, 1 - tried.blind.retained_mass.mean(1), atol=1e-6)


def short_rare_texts() -> list[slices.Rare]:
    return [each for each in slices.rare_texts() if each.slice in ("names", "very short")][:5]


def test_rare_texts_run_when_asked_stop_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = short_rare_texts()
    monkeypatch.setattr("app.components.trust.rare.rare_texts", lambda: texts)
    monkeypatch.setattr("app.components.shared.resumable.TURN", 0.0)
    at = trust_page()
    assert not [table for table in at.dataframe if WORDS("rare.slice") in table.value]
    at.button(key="rare_start").click().run()
    at.button(key="rare_stop").click().run()  # one turn was over: what is done is kept
    (found,) = at.session_state["rare"].values()
    assert found
    assert WORDS("rare.partial", done=len(found), total=len(texts)) in page_text(at)
    assert len(found) < len(texts)
    at.button(key="rare_start").click().run()
    while at.session_state["rare_running"]:
        at.run()
    assert not at.exception
    assert not at.error
    model = service.Client().model(MODEL)
    sla = saa.RiskLimit(missed_mass=0.05)
    whole = DegradationMeter(model, [each.text for each in texts], "missed_mass").of(
        model.spec.policy
    )
    expected = slices.by_rare_slice(texts, whole, sla)
    rows = next(table.value for table in at.dataframe if WORDS("rare.slice") in table.value)
    assert list(rows[WORDS("rare.missed_mass")]) == [
        WORDS.percent(each.loss, 2) for each in expected
    ]
    assert set(rows[WORDS("rare.slice")]) >= {WORDS("slice.all"), "names (en)"}
    assert not [button for button in at.button if button.key in ("rare_start", "rare_stop")]


def test_a_promise_stands_beside_what_the_rare_texts_show(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = short_rare_texts()[:2]
    monkeypatch.setattr("app.components.trust.rare.rare_texts", lambda: texts)
    model = service.Client().model(MODEL)
    policy = replace(model.spec.policy, mass=0.85)
    setting = Setting(policy, 0.031, 0.02, 0.04, 0.5, 0.01, True)
    promise = saa.Certificate(saa.RiskLimit(missed_mass=0.06), policy, 90, (setting,), "certified")
    stored = saa.StoredPolicy(policy, promise=promise)
    monkeypatch.setattr("app.components.sidebar.choice.open_policy", lambda *_: stored)
    at = trust_page()
    at.file_uploader(key="policy_file").set_value(("policy.json", b"{}", "application/json"))
    at.run()
    at.button(key="rare_start").click().run()
    while at.session_state["rare_running"]:
        at.run()
    assert not at.exception
    shown = {metric.label: metric.value for metric in at.metric}
    assert shown[WORDS("rare.promised")] == WORDS.percent(0.06, 2)
    assert shown[WORDS("rare.certified")] == WORDS.percent(0.031, 2)
    (found,) = (own for key, own in at.session_state["rare"].items() if key[1] == policy)
    losses = [loss for each in found for loss in each.losses]
    assert shown[WORDS("rare.measured")] == WORDS.percent(float(np.mean(losses)), 2)


def test_the_events_of_the_run_itself_stand_on_the_page() -> None:
    """A guard in the sidebar, a text that is one word: far from the training texts."""
    at = app(model=MODEL).run()
    at.select_slider(key="guard").set_value(0.05).run()
    at = press(at, "buffalo " * 90)
    assert "unlike those that the gate was trained on" in page_text(at)
    at.switch_page("views/trust.py").run()
    assert not at.exception
    (result,) = at.session_state["results"].values()
    trace = result.trace
    rows = at.dataframe[0].value
    assert list(rows[WORDS("trust.added")]) == [
        WORDS.percent(event["added"], 2) for event in trust.find_noticed(trace.events)
    ]
    first = trace.events[0]
    assert first["suspected"] == "input"
    assert rows[WORDS("trust.measured")][0] == WORDS(
        "trust.far", distance=first["measured"], limit=first["limit"]
    )
