"""The Compare page without a browser, against what the library says about the same two runs."""

import functools

import pytest

import saa_core as saa
from app import service, text
from saa_core.explain.difference import difference, difference_map
from tests.app.recorded import recorded_client
from tests.app.test_app import TEXT, app, page_text

pytestmark = pytest.mark.model
FIRST = TEXT
SECOND = FIRST.replace("is calm", "is very rough")


@pytest.fixture(scope="module")
def edited():
    """The page after a text with other words was compared. Tests only read it."""
    with recorded_client(run=False):
        at = app(text=FIRST, b_text=SECOND, b_how="saa", b_mass="0.95")
        at.switch_page("views/compare.py")
        return at.run()


@functools.cache
def runs():
    model = service.Client().model("smollm2")
    return tuple(saa.run(model, content, model.spec.policy) for content in (FIRST, SECOND))


def test_a_link_with_two_texts_shows_what_turned_over(edited) -> None:
    assert not edited.exception
    first, second = runs()
    found = difference(first, second)
    compared = saa.compare(first, second, found.alignment)
    words, shown = text.load("en"), page_text(edited)
    total = int(found.pairs.sum()) * first.shape[1]
    share = int((found.only_first + found.only_second).sum()) / total
    assert edited.header[0].value.startswith(f"{words.percent(share)} of the token pairs")
    assert words.percent(float(compared.top1_agreement.mean())) in edited.header[0].value
    assert f"Of {total:,} pairs" in shown
    assert f"of {first.keys} in A and {second.keys} in B" in shown
    assert edited.query_params["b_text"] == SECOND
    rows = edited.dataframe[2].value
    best = found.flips[0]
    assert len(rows) == len(found.flips)
    assert (rows["Layer"][0], rows["Head"][0]) == (best.layer, best.head)
    assert rows["Kept by"][0] == ("A" if best.kept_first else "B")
    places = [edited.number_input(key=name).value for name in ("layer", "head", "q", "k")]
    assert places == [best.layer, best.head, best.query, best.key], "it starts at the largest swing"


def test_the_cursor_is_one_for_both_sides(edited) -> None:
    for position in (20, 2):
        edited.number_input(key="q").set_value(position)
        edited.number_input(key="k").set_value(1).run()
        other = position + 1 if position > 10 else position
        places = [m.value for m in edited.markdown if "looking at" in m.value]
        assert f"(position {position})" in places[0]
        assert f"(position {other})" in places[1]


def test_a_token_that_was_taken_out_has_no_counterpart() -> None:
    at = app(text=SECOND, b_text=FIRST, b_how="saa", b_mass="0.9")
    at.switch_page("views/compare.py")
    at.run()
    first, second = reversed(runs())
    alone = sorted(set(range(first.keys)) - set(difference(first, second).alignment.first))
    at.number_input(key="q").set_value(alone[0]).run()
    assert "no counterpart in text B" in page_text(at)


@pytest.mark.parametrize("start", ["dense", "share", "joint", "task"])
def test_every_starting_point_leads_to_a_comparison(start: str) -> None:
    at = app().switch_page("views/compare.py").run()
    assert "Choose a starting point" in page_text(at)
    at.button(key=f"start-{start}").click().run()
    assert not at.exception
    assert not at.error
    compared = at.session_state["compared"]
    assert "were decided differently" in at.header[0].value
    assert compared.decisions is not None
    joint, original = "smollm2 + saa-joint", "smollm2"
    models = {
        "dense": (joint, original),
        "share": (joint, joint),
        "joint": (original, joint),
        "task": ("minilm + sentences",) * 2,
    }
    names = tuple(trace.model.name for trace in compared.traces)
    assert names == models[start]
    assert (compared.traces[1].policy is None) == (start in ("dense", "task"))


def test_models_of_other_families_are_set_beside_each_other() -> None:
    at = app(text=FIRST, b_model="minilm", b_how="saa", b_mass="0.9")
    at.switch_page("views/compare.py")
    at.run()
    assert not at.exception
    assert "no decision of one has a counterpart" in page_text(at)
    assert at.dataframe[0].value["Side B"][0].startswith("minilm")


def test_an_empty_side_is_a_sentence() -> None:
    at = app().switch_page("views/compare.py").run()
    at.button(key="compare").click().run()
    assert [error.value for error in at.error] == [text.load("en")("error.empty")]


def test_the_map_of_the_page_is_the_difference_of_the_traces(edited) -> None:
    from app.charts import difference as difference_charts
    from app.charts.pair import frame_around

    first, second = runs()
    words = text.load("en")
    codes = difference_map(first, second, None, 5, 3)
    frame = frame_around(10, 10, 16, first.keys)
    rows = difference_charts.window(first, codes, frame, (10, 10), words, False).layer[0].data
    for row in rows.itertuples():
        kept = first.keep_map(5, 3)[row.q, row.k]
        assert (row.kind in (words("compare.both"), words("compare.only_a"))) == kept
