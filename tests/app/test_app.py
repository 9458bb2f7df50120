"""The pages without a browser: what they show against what the library says, and their errors."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app import service, text
from app.charts import time as time_charts
from app.charts.arc import ARCS, arcs
from app.charts.head import head_values, measures
from app.charts.pair import Frame, frame_around, window_rows
from app.charts.token_labels import CONTINUED, labels
from app.components.shared.figures import figures, time_key
from app.components.shared.maps import choose_pair, choose_token, start_pair
from app.components.strips.crossed import first_without, half_way
from app.components.strips.text_strip import pieces, shade
from app.live import passes
from app.live.models import ModelRegistry
from app.live.passes import NEW_TOKENS
from app.live.values import Request
from app.state import session, uploads
from app.state.uploads import trace_bytes
from saa_core.certify.certificate import certificate_from
from saa_core.certify.degradation import Degradation
from saa_core.data import fetch
from saa_core.explain.pair import LayerInputs, boundary
from saa_core.explain.tradeoff import Point, knee, tradeoff
from saa_core.run.classify import classify
from saa_core.trace.summary import summarise
from tests.app.recorded import no_warm_up, recorded_client

pytestmark = pytest.mark.model
ROOT = Path(__file__).parents[2]
TEXT = (
    "The ferry leaves at nine. If the sea is calm, the ferry reaches the island by ten, and the "
    "passengers have five hours to see the chapel, the old harbour and the three windmills. If the "
    "sea is rough, the captain decides at eight whether the ferry leaves at all; then the"
)
HOSTILE = "<script>alert(1)</script> **bold** $x^2$ [a](javascript:alert(2)) :red[b] <b>c</b>"


@pytest.fixture(scope="module")
def model() -> saa.Model:
    """The model that the app itself uses."""
    return service.Client().model("smollm2")


@pytest.fixture(scope="module")
def policy(model: saa.Model) -> saa.Policy:
    return model.spec.policy


@pytest.fixture(scope="module")
def trace(model: saa.Model, policy: saa.Policy) -> saa.Trace:
    return saa.run(model, TEXT, policy)


@pytest.fixture(scope="module")
def recording(trace: saa.Trace, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return trace.save(tmp_path_factory.mktemp("trace") / "run.saa").read_bytes()


def app(**address: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app" / "router.py"), default_timeout=300)
    for name, value in {"lang": "en", "model": "smollm2", **address}.items():
        at.query_params[name] = value
    return at


def press(at: AppTest, content: str) -> AppTest:
    at.text_area(key="text").set_value(content)
    return at.button(key="run").click().run()


@pytest.fixture(scope="module")
def ran() -> AppTest:
    """The page after a real run of a short text. Tests only read it."""
    with recorded_client(run=False):
        return press(app().run(), TEXT)


def figure(at: AppTest, name: str) -> str:
    return next(metric.value for metric in at.metric if metric.label == name)


def player(at: AppTest) -> dict:
    """What the text that is played layer by layer was drawn from."""
    (found,) = [
        each.proto
        for each in at.get("bidi_component")
        if each.proto.component_name == "saa_layer_player"
    ]
    return json.loads(found.json)


def page_text(at: AppTest) -> str:
    kinds = (at.markdown, at.caption, at.header, at.subheader, at.info, at.error, at.warning)
    return "\n".join(element.value for kind in kinds for element in kind)


def spoken(shown: str) -> str:
    return shown.replace("\N{NO-BREAK SPACE}", " ")


def test_first_visit_offers_a_text_box_the_examples_and_one_button() -> None:
    at = app().run()
    assert not at.exception
    assert "Time, SAA against dense" not in [metric.label for metric in at.metric]
    assert at.text_area(key="text").value == ""
    assert at.button(key="run").label == "Run"
    cards = [button for button in at.button if button.key.startswith("try-")]
    assert len(cards) >= 8
    assert "English one" in page_text(at), "the Japanese example says what to expect"


def test_a_run_shows_the_numbers_of_the_library(ran: AppTest, trace: saa.Trace, model) -> None:
    assert not ran.exception
    dense = saa.run(model, TEXT)
    compared = saa.compare(dense, trace)
    same, positions = int(compared.top1_agreement.sum()), trace.keys
    words = text.load("en")
    assert figure(ran, "Pairs dropped") == words.percent(trace.sparsity, 1)
    assert figure(ran, "Attention kept") == words.percent(float(trace.retained_mass.mean()), 1)
    assert figure(ran, "Agreement with dense") == words.percent(same / positions, 1)
    assert f"{same} of {positions} positions" in page_text(ran)
    assert figure(ran, "Shift of the predictions") == f"{compared.kl.mean():.3f} nats"
    verdict = "same" if compared.top1_agreement[-1] else "different"
    sentence = spoken(ran.header[0].value)
    assert f"{100 * trace.sparsity:.0f} %" in sentence
    assert verdict in sentence.split(";")[1]


def test_the_run_is_said_in_plain_words(ran: AppTest, trace: saa.Trace) -> None:
    facts, words = summarise(trace), text.load("en")
    shown = page_text(ran)
    assert f"{words.percent(facts.far)} of those that the model could compute" in shown
    for group in facts.groups:
        assert f"farther apart, {words.percent(group.kept)} were kept" in shown or (
            f"{words.percent(group.kept)} of the pairs farther apart were kept" in shown
        )
        first, last = group.ranges[0]
        assert f"{first} to {last}" in shown if last > first else f"{first}" in shown
    at, share = facts.most_read
    assert f"(position {at}): {words.percent(share)} of the tokens far from it" in shown


def test_time_has_a_ratio_and_quartiles_of_raw_samples(ran: AppTest) -> None:
    (result,) = ran.session_state["results"].values()
    dense, sparse = result.dense_timing, result.timing
    assert len(dense.samples_ms) == len(sparse.samples_ms) == result.rounds > 1
    low, _, high = sparse.ratio(dense)
    shown, words = page_text(ran), text.load("en")
    assert f"Ratio {low:.2f} to {high:.2f}" in shown
    assert words.milliseconds(sparse.median_ms) in shown
    assert words.milliseconds(dense.median_ms) in shown
    assert figure(ran, "Time, SAA against dense") == "too short to tell"


@pytest.mark.parametrize(
    ("scale", "block", "said"),
    [
        (2.0, (32, 16), "faster"),
        (0.5, (32, 16), "slower"),
        (1.0, (32, 16), "short"),
        (2.0, (1, 1), "short"),
    ],
)
def test_a_verdict_on_time_needs_blocks_and_a_clear_difference(
    ran: AppTest, scale: float, block: tuple[int, int], said: str
) -> None:
    (result,) = ran.session_state["results"].values()
    sparse = dataclasses.replace(result.timing, samples_ms=(100.0, 101.0, 99.0))
    dense = dataclasses.replace(sparse, samples_ms=tuple(scale * ms for ms in (101.0, 100.0, 99.0)))
    made = dataclasses.replace(
        result,
        trace=dataclasses.replace(result.trace, block=block),
        timing=sparse,
        dense_timing=dense,
        rounds=result.rounds_done,
    )
    assert time_key(figures(made), made) == said


def test_a_short_text_says_that_nothing_is_gained_in_time(ran: AppTest) -> None:
    assert "little or no time is gained" in page_text(ran)
    assert "found unnecessary" in ran.header[0].value, "single pairs are not skipped"
    assert "too short to tell" in ran.header[0].value


def test_continuations_are_what_the_library_generates(ran: AppTest, model, policy) -> None:
    (result,) = ran.session_state["results"].values()
    assert result.words == "".join(saa.generate(model, TEXT, policy, max_new_tokens=NEW_TOKENS))
    assert result.dense_words == "".join(saa.generate(model, TEXT, max_new_tokens=NEW_TOKENS))


@pytest.mark.parametrize("trained", [True, False])
def test_an_untrained_gate_is_said_loudly(trace: saa.Trace, trained: bool) -> None:
    made = dataclasses.replace(trace, model=dataclasses.replace(trace.model, trained=trained))
    shown = press_trace(app().run(), uploads.trace_bytes(made))
    banner = text.load("en")("untrained.banner", model=text.plain(trace.model.name))
    assert [error.value for error in shown.error] == ([] if trained else [banner])


def test_widgets_never_compute_a_result_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real client: what is recorded would hide that something runs twice
    no_warm_up(monkeypatch)
    runs: list[Request] = []
    original = service.Client.run

    def counted(self, request, report, earlier=None):
        runs.append(request)
        return original(self, request, report, earlier)

    monkeypatch.setattr(service.Client, "run", counted)
    at = press(app().run(), TEXT)
    at.number_input(key="layer").set_value(3).run()
    at.number_input(key="q").set_value(25).run()
    at.radio(key="lang").set_value("ja").run()
    at.button(key="run").click().run()
    assert len(runs) == 1
    at.slider(key="mass").set_value(0.7).run()
    assert len(runs) == 1
    stale = [w.value.replace("\\", "") for w in at.warning]
    assert any(str(runs[0].policy) in sentence for sentence in stale)
    at.button(key="again").click().run()
    assert [request.policy.mass for request in runs][1:] == [0.7]
    first, second = at.session_state["results"].values()
    assert second.dense is first.dense, "the dense run of the same text is used again"


def test_selectors_choose_the_pair_that_the_inspector_explains(trace: saa.Trace) -> None:
    at = press(app(layer="4", head="2", q="45", k="10").run(), TEXT)
    reason = saa.REASONS[trace.reason_map(4, 2)[45, 10]]
    expected = {"below": "Dropped.", "gate": "Kept by the gate."}[reason]
    assert "(position 45)" in page_text(at)
    assert "layer 4, head 2" in page_text(at)
    assert any(element.value.startswith(expected) for element in at.markdown)
    at.number_input(key="k").set_value(50).run()
    assert "Not allowed. The model reads from left to right" in page_text(at)
    at.number_input(key="k").set_value(45).run()
    assert "nearest tokens, the query itself included" in page_text(at)


def test_a_link_runs_its_text_and_shows_its_pair() -> None:
    at = app(text=TEXT, mass="0.80", layer="7", head="1", q="8", k="2").run()
    (request,) = at.session_state["results"]
    assert (request.text, request.policy.mass) == (TEXT, 0.80)
    assert [at.number_input(key=name).value for name in ("layer", "head", "q", "k")] == [7, 1, 8, 2]


@pytest.mark.parametrize(
    "address",
    [
        {"layer": "x", "mass": "nan", "lang": "<b>", "model": "/etc"},
        {"layer": "-1", "mass": "7", "q": "9" * 30, "example": "../secrets"},
    ],
    ids=["words", "numbers"],
)
def test_an_address_that_makes_no_sense_is_ignored(address: dict[str, str]) -> None:
    at = app(**{"model": "", **address}).run()
    assert not at.exception
    assert not at.error
    assert at.selectbox(key="model").value == "smollm2 + saa-joint"


def test_the_language_toggle_changes_every_sentence_and_the_address() -> None:
    at = app().run()
    at.radio(key="lang").set_value("ja").run()
    assert at.button(key="run").label == "実行"
    assert at.text_area(key="text").label == "テキスト"
    assert at.query_params["lang"] == "ja"


@pytest.mark.parametrize("content", ["", "   \n\t "], ids=["nothing", "spaces"])
def test_an_empty_text_is_a_sentence(content: str) -> None:
    at = press(app().run(), content)
    assert [error.value for error in at.error] == [text.load("en")("error.empty")]
    assert not at.exception
    assert not at.metric


def test_a_text_over_the_limit_offers_to_cut_it(monkeypatch: pytest.MonkeyPatch, model) -> None:
    novel = service.novel()
    at = press(app().run(), novel)
    with pytest.raises(saa.TextError) as caught:
        saa.run(model, novel)
    cut = caught.value.cut_at
    assert f"{caught.value.length:,} tokens" in at.error[0].value
    assert f"after character {cut:,}" in at.error[0].value
    assert at.code[0].value.endswith(novel[cut - 40 : cut])
    asked: list[str] = []

    def note(self, request, report, earlier=None):
        asked.append(request.text)
        raise saa.TextError("enough for this test")

    monkeypatch.setattr(service.Client, "run", note)
    at.button(key="cut").click().run()
    assert asked == [novel[:cut]]


def test_an_unknown_model_is_a_sentence() -> None:
    at = app().run()
    at.text_input(key="custom").set_value("/no/such **model**").run()
    assert not at.exception
    assert "could not be loaded" in at.error[0].value
    assert "**model**" not in at.error[0].value, "Markdown in a name is not interpreted"


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (saa.KernelError("flex cannot run"), "error.kernel"),
        (saa.FetchError("no network"), "error.fetch"),
        (RuntimeError("secret path"), "error.other"),
    ],
    ids=["kernel", "fetch", "anything"],
)
def test_every_failure_is_a_sentence(monkeypatch, error: Exception, key: str) -> None:
    def fail(self, request, report, earlier=None):
        raise error

    monkeypatch.setattr(service.Client, "run", fail)
    at = press(app(lang="ja").run(), TEXT)
    assert [shown.value for shown in at.error] == [text.load("ja")(key)]
    assert not at.exception
    assert "Traceback" not in page_text(at)


def press_trace(at: AppTest, content: bytes) -> AppTest:
    at.file_uploader(key="recording").set_value(("run.saa", content, "application/octet-stream"))
    return at.run()


def test_a_recorded_trace_opens_and_says_what_it_does_not_have(trace, recording) -> None:
    at = press_trace(app().run(), recording)
    assert not at.exception
    words = text.load("en")
    assert figure(at, "Pairs dropped") == words.percent(trace.sparsity, 1)
    assert figure(at, "Attention kept") == words.percent(float(trace.retained_mass.mean()), 1)
    assert figure(at, "Agreement with dense") == "–"
    assert figure(at, "Time, SAA against dense") == "–"
    assert "Recorded trace, opened from run" in page_text(at)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_trace_is_a_sentence(recording: bytes, damage: str) -> None:
    content = recording[: len(recording) // 2] if damage == "cut" else b"PK\x03\x04 no trace"
    at = press_trace(app().run(), content)
    assert [error.value for error in at.error] == [text.load("en")("error.trace")]
    assert not at.exception


def test_a_trace_saved_from_the_page_opens_again(ran: AppTest) -> None:
    (result,) = ran.session_state["results"].values()
    at = press_trace(app().run(), trace_bytes(result.trace))
    assert figure(at, "Time, SAA against dense") == figure(ran, "Time, SAA against dense")


def with_policy_file(content: bytes) -> AppTest:
    at = app().run()
    at.file_uploader(key="policy_file").set_value(("policy.json", content, "application/json"))
    return at.run()


def test_a_policy_file_takes_the_place_of_the_sliders(model, tmp_path) -> None:
    policy, sla = saa.Policy(mass=0.88, block=(16, 16)), saa.RiskLimit(perplexity=0.02)
    measured = Degradation(policy, (0.001,) * 200, (0.5,) * 200)
    file = saa.save_policy(tmp_path / "p.json", certificate_from(sla, [measured]), model)
    at = with_policy_file(file.read_bytes())
    assert not at.exception
    assert at.session_state.choice.policy == policy
    assert text.plain("mass 0.88") in page_text(at)
    assert "200 texts" in page_text(at)
    saa.save_policy(file, None, model)
    at = with_policy_file(file.read_bytes())
    assert at.session_state.choice.policy.mass == round(model.spec.policy.mass, 2)
    assert any("stay dense" in shown.value for shown in at.info)
    at = with_policy_file(b"{}")
    assert not at.exception
    assert [shown.value for shown in at.error] == [text.load("en")("error.policy")]


def test_hostile_text_is_shown_and_not_interpreted() -> None:
    at = press(app().run(), HOSTILE)
    assert not at.exception
    for element in at.get("html"):
        assert "<script" not in element.proto.body
        assert "<b>c" not in element.proto.body
    for element in at.markdown:
        assert "<script" not in element.value
        assert not element.allow_html


def test_warm_up_runs_both_kinds_of_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    lengths: list[str] = []
    monkeypatch.setattr(saa, "run", lambda model, content, policy: lengths.append(content))
    client = session.Client(ModelRegistry())
    for step in client.cold("smollm2"):
        client.warm_up("smollm2", step)
    assert client.cold("smollm2") == []
    sizes = [
        session.count_tokens(client.model("smollm2"), "smollm2", content) for content in lengths
    ]
    assert min(sizes) <= 512 < max(sizes)
    assert len(sizes) == 4


def test_window_rows_are_the_decisions_of_the_trace(trace: saa.Trace) -> None:
    words = text.load("en")
    rows = window_rows(trace, 3, 1, Frame(30, 10, 16), (33, 12), words)
    assert len(rows) == int(trace.allowed(0)[30:46, 10:26].sum())
    for row in rows.itertuples():
        reason = saa.REASONS[trace.reason_map(3, 1)[row.q, row.k]]
        assert row.reason == words(f"reason.{reason}")
        assert (row.kind == words("chart.dropped")) == (not trace.keep_map(3, 1)[row.q, row.k])
        assert row.score_text == words.percent(float(trace.score_map(3, 1)[row.q, row.k]), 2)
    assert rows[rows.chosen][["q", "k"]].to_numpy().tolist() == [[33, 12]]


def test_clicks_end_in_the_selectors(trace: saa.Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.components.shared import maps

    state = SimpleNamespace(layer=2, head=1, q=0, k=0, get=lambda name, default: default)
    monkeypatch.setattr(maps, "st", SimpleNamespace(session_state=state))
    maps.choose_head({"selection": {"cell": [{"layer": 5, "head": 4}]}})
    assert (state.layer, state.head) == (5, 4)
    choose_pair(trace, {"selection": {"pair": [{"q": 6, "k": 2}]}})
    assert (state.q, state.k) == (6, 2)
    choose_pair(trace, {"selection": {"pair": [{"q": 6000, "k": 2}]}})
    choose_pair(trace, {"selection": {}})
    assert (state.q, state.k) == (6, 2)
    choose_token(trace, 11)
    assert state.q == 11
    assert trace.keep_map(5, 4)[11, state.k]


def test_the_strip_holds_the_whole_text(trace: saa.Trace) -> None:
    assert "".join(pieces(trace)) == TEXT
    shades = shade(trace.attention_received.mean((0, 1)))
    assert 0 == min(shades) < max(shades) == 1


def test_characters_of_several_tokens_are_shown_once(model: saa.Model) -> None:
    japanese = saa.run(model, "毎朝六時に、灯台守は", saa.Policy())
    shown = pieces(japanese)
    assert len(shown) == japanese.keys
    assert "".join(shown).replace(CONTINUED, "") == japanese.text
    names = labels(japanese)
    assert "毎₁" in names
    assert len({name for name in names if name.startswith("毎")}) == names.count("毎₁") + 1


def test_a_visit_starts_at_a_pair_that_the_gate_kept(trace: saa.Trace) -> None:
    kept = trace.reason_map(4, 0) == saa.REASONS.index("gate")
    q, k = start_pair(trace, 4, 0)
    assert kept[q, k]


@pytest.fixture(scope="module")
def mapped() -> AppTest:
    """The gate map after a run of a short text on Explore."""
    with recorded_client():
        at = press(app(layer="5", head="2", q="40", k="7").run(), TEXT)
        return at.switch_page("views/gate_map.py").run()


def test_the_gate_map_shows_the_run_of_the_other_page_at_the_same_pair(mapped, trace) -> None:
    assert not mapped.exception
    assert f"{trace.keys} tokens" in page_text(mapped)
    assert [mapped.number_input(key=name).value for name in ("layer", "head", "q", "k")] == [
        5,
        2,
        40,
        7,
    ]
    shown = page_text(mapped)
    found = boundary(trace, 5, 2, 40, 7)
    assert f"**{math.ceil(1000 * found.value) / 1000:.3f}**" in shown
    q0, q1 = trace.offsets[40]
    assert f"query {q0} to {q1}" in shown


def test_a_score_is_taken_apart_on_request(mapped, model, trace) -> None:
    mapped.button(key="explain").click().run()
    parts = LayerInputs(model, trace, 5).parts(2, 40, 7)
    assert figure(mapped, "Content") == f"{parts.content:+.2f}"
    assert figure(mapped, "Distance") == f"{parts.distance:+.2f}"
    assert spoken(figure(mapped, "True attention")).endswith("%")


def test_a_gate_map_without_a_run_says_where_to_start() -> None:
    at = app().run().switch_page("views/gate_map.py").run()
    assert not at.exception
    assert "no run to show" in page_text(at)


@pytest.mark.parametrize("measure", ["density", "retained", "sink", "near"])
def test_every_measure_of_the_grid_is_a_share(measure, trace) -> None:
    values = head_values(trace, measure)
    assert measure in measures(trace)
    assert values.shape == trace.shape
    assert values.min() >= 0
    assert values.max() <= 1
    assert values.std() > 0.001


def test_arcs_are_the_kept_pairs_of_a_token_strongest_first(trace) -> None:
    words = text.load("en")
    for reads in (True, False):
        chart, drawn, kept = arcs(trace, 5, 2, 40, reads, words, dark=False)
        keep = trace.keep_map(5, 2)
        others = np.flatnonzero(keep[40] if reads else keep[:, 40])
        assert kept == len(others)
        assert drawn == min(kept, ARCS)
        assert set(chart.layer[0].data["arc"]) <= set(others)
    scores = trace.score_map(5, 2)[40]
    data = arcs(trace, 5, 2, 40, True, words, dark=False)[0].layer[0].data
    left_out = set(np.flatnonzero(trace.keep_map(5, 2)[40])) - set(data["arc"])
    assert all(scores[list(left_out)] <= scores[data["arc"].unique()].min() + 1e-6)


def test_an_encoder_shows_its_embedding_and_no_continuation() -> None:
    at = press(app(model="minilm").run(), TEXT)
    assert not at.exception
    assert 0.9 < float(figure(at, "Cosine with dense")) <= 1
    assert "What each would write next" not in page_text(at)
    assert "cosine" in at.header[0].value


def test_a_gate_folder_can_be_chosen_and_its_state_is_shown(tmp_path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(fetch.assets() / "gates" / "smollm2", folder)
    about = json.loads((folder / "gates.json").read_text())
    (folder / "gates.json").write_text(json.dumps(about | {"id": "mine", "trained": False}))
    at = app().run()
    at.text_input(key="gates").set_value(str(folder)).run()
    assert not at.exception
    assert any("UNTRAINED" in badge.value for badge in at.markdown)
    at.text_input(key="gates").set_value(str(tmp_path / "nothing")).run()
    assert not at.exception
    assert "gate" in at.error[0].value.lower()


@pytest.fixture(scope="module")
def swept() -> AppTest:
    """The latency page after settings were tried on a text. Tests only read it."""
    with recorded_client():
        at = press(app().run(), TEXT).switch_page("views/latency.py").run()
        return at.button(key="sweep").click().run()


def test_the_latency_page_names_the_knee_of_the_text(swept, model, policy) -> None:
    assert not swept.exception
    (points,) = swept.session_state["sweeps"].values()
    assert points == list(tradeoff(model, TEXT, policy=policy))
    best = points[knee(points)]
    assert f"The curve bends at **{best.mass:.2f}**" in page_text(swept)
    assert points[0].density < best.density < points[-1].density
    assert points[0].distance > best.distance > points[-1].distance


def test_the_knee_becomes_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point(0.7, 0.2, 0.5, 0.7), Point(0.85, 0.3, 0.1, 0.8), Point(0.99, 0.9, 0.0, 1.0)]
    monkeypatch.setattr(service.Client, "sweep", lambda self, result, report: points)
    at = press(app().run(), TEXT).switch_page("views/latency.py").run()
    at.button(key="sweep").click().run()
    at.button(key="use-knee").click().run()
    assert at.slider(key="mass").value == 0.85


def test_the_latency_page_shows_what_was_shipped_until_it_measures(model) -> None:
    at = app().run().switch_page("views/latency.py").run()
    shipped = model.spec.evaluation["timings"]
    assert "not on this machine" in page_text(at)
    assert list(at.dataframe[0].value["tokens"]) == [row["length"] for row in shipped[::2]]
    tokens = model.spec.evaluation["crossover"]["tokens"]
    assert f"from about {tokens:,} tokens on" in page_text(at)
    at.button_group[0].set_value([128]).run()
    at.button(key="measure").click().run()
    assert "Measured on this machine just now" in page_text(at)
    assert list(at.dataframe[0].value["tokens"]) == [128]
    (timings,) = at.session_state["latencies"].values()
    assert [len(timing.samples_ms) for timing in timings] == [service.LATENCY_REPEATS] * 2


def test_the_latency_page_says_that_a_recording_has_one_setting(recording) -> None:
    at = press_trace(app().run(), recording).switch_page("views/latency.py").run()
    assert not at.exception
    assert "one setting only" in page_text(at)


def test_latency_charts_hold_every_measured_length(model) -> None:
    words = text.load("en")
    timings = [saa.Timing(**row) for row in model.spec.evaluation["timings"]]
    lengths = {timing.length for timing in timings}
    speeds = time_charts.speeds(timings, words, dark=False).to_dict()
    rows = max(speeds["datasets"].values(), key=len)
    assert {row["tokens"] for row in rows} == lengths
    assert all(row["low"] <= row["times"] <= row["high"] for row in rows)
    (rows,) = time_charts.stages(timings, words, dark=True).to_dict()["datasets"].values()
    assert {row["stage"] for row in rows} == {"gate", "rule", "kernel"}


def test_a_visit_starts_with_the_joint_model_compared_with_the_original(model) -> None:
    at = press(app(model="").run(), TEXT)
    assert not at.exception
    words = text.load("en")
    assert words("sidebar.joint") in page_text(at)
    assert words("sidebar.frozen") in page_text(app().run())
    (result,) = at.session_state["results"].values()
    assert result.trace.model.name == "smollm2 + saa-joint"
    assert result.dense.model.name == "smollm2"
    assert result.dense_words == "".join(
        saa.generate(model, TEXT, max_new_tokens=passes.NEW_TOKENS)
    )
    assert figure(at, "Pairs dropped") == text.load("en").percent(result.trace.sparsity, 1)


ASKED = "Where was the peace treaty between the two kingdoms signed? [SEP] in the hall of Antwerp"


@pytest.fixture(scope="module")
def labelled() -> AppTest:
    """The page after a task gave a text its label. Tests only read it."""
    with recorded_client(run=False):
        return press(app(model="minilm + questions", tokens="0.5").run(), ASKED)


def test_a_task_shows_both_labels_and_the_work_saved(labelled: AppTest) -> None:
    assert not labelled.exception
    task = service.Client().model("minilm + questions")
    dense = service.Client().original("minilm + questions")
    (found,) = classify(task, [ASKED], saa.Policy(mass=1.0, tokens=0.5))
    (full,) = classify(dense, [ASKED])
    words = text.load("en")
    assert figure(labelled, "Label") == found.label
    assert figure(labelled, "Model work saved") == words.percent(1 - found.flops_share, 1)
    assert f"dense: {full.label} (" in page_text(labelled)
    sentence = spoken(labelled.header[0].value)
    same = found.label == full.label
    assert (f"({found.label})" if same else f"SAA says {found.label}") in sentence
    (result,) = labelled.session_state["results"].values()
    assert result.dense.model.name == "minilm + questions"
    assert result.dense.token_share == 1
    assert result.timing is not None
    assert labelled.query_params["tokens"] == "0.50"


def test_tokens_are_crossed_out_layer_by_layer(labelled: AppTest) -> None:
    (result,) = labelled.session_state["results"].values()
    alive = result.trace.kept_tokens
    first = np.array(first_without(result.trace))
    assert player(labelled)["gone"] == first.tolist()
    assert player(labelled)["left"] == alive.sum(1).tolist()
    for layer in range(len(alive)):
        assert ((first > layer) == alive[layer]).all()
    shares = alive.mean(1)
    assert abs(shares[half_way(result.trace)] - 0.5) == abs(shares - 0.5).min()
    rows = window_rows(
        result.trace, len(alive) - 1, 0, frame_around(0, 0, 16, 16), (0, 0), text.load("en")
    )
    gone = {int(at) for at in np.flatnonzero(~alive[-1])}
    assert gone
    for row in rows.itertuples():
        if row.q in gone or row.k in gone:
            assert row.kind == "dropped"
            assert row.reason == text.load("en")("reason.token")


def test_another_model_starts_at_its_own_defaults() -> None:
    at = app(model="minilm + questions", tokens="0.5", mass="0.9").run()
    assert at.select_slider(key="tokens").value == 0.5
    assert at.slider(key="mass").value == 0.9
    at.selectbox(key="model").set_value("smollm2").run()
    assert at.slider(key="mass").value == service.Client().model("smollm2").spec.policy.mass
    assert not [slider for slider in at.select_slider if slider.key == "tokens"]
    at.selectbox(key="model").set_value("minilm + questions").run()
    task = service.Client().model("minilm + questions").task
    assert at.select_slider(key="tokens").value == pytest.approx(task.policy.tokens, abs=0.051)
    assert at.slider(key="mass").value == 1.0
    at.select_slider(key="tokens").set_value(1.0)
    at = press(at, ASKED)
    assert not at.exception
    assert figure(at, "Model work saved") == text.load("en").percent(0.0, 1)
    assert "Every word pair was computed" in at.header[0].value
    assert at.query_params["tokens"] == "1.00", "a reload shows the same"


def test_a_recorded_task_run_opens_without_its_model(labelled: AppTest, tmp_path) -> None:
    (result,) = labelled.session_state["results"].values()
    content = result.trace.save(tmp_path / "task.saa").read_bytes()
    at = press_trace(app().run(), content)
    assert not at.exception
    shown = text.load("en").percent(1 - result.trace.token_share, 1)
    assert figure(at, "Model work saved") == shown
    assert "does not count operations" in page_text(at)
    assert "of the word work was left out" in at.header[0].value
    assert "give the same label" not in page_text(at)
    at.switch_page("views/gate_map.py").run()
    assert not at.exception


def test_a_guard_from_the_address_checks_the_run_and_says_what_it_did() -> None:
    at = app(text=TEXT, guard="0.1").run()
    assert at.session_state["shown"].policy.guard == saa.Guard(missed_mass=0.1)
    assert "The guard checked" in page_text(at)
    assert at.query_params["guard"] == "0.1"
    at.select_slider(key="guard").set_value(0.0)
    at.button(key="run").click().run()
    assert at.session_state["shown"].policy.guard is None
    assert "The guard checked" not in page_text(at)
    assert "guard" not in at.query_params


def test_an_unclear_label_is_left_to_the_dense_side_where_a_margin_is_set() -> None:
    at = app(model="minilm + questions", example="clock_spring", margin="0.9").run()
    assert at.session_state["shown"].policy.guard == saa.Guard(missed_mass=None, margin=0.9)
    assert "the **reference model answered**" in page_text(at)
    at.select_slider(key="margin").set_value(0.0)
    at.button(key="run").click().run()
    assert "the **reference model answered**" not in page_text(at)
    assert at.query_params["margin"] == "0"
