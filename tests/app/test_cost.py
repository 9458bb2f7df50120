"""The Cost page without a browser: its figures are those of saa_core.costs, its inputs the measured times."""

import pytest

import saa_core as saa
from app import service, text
from app.components.cost import cost as bill
from saa_core.run.costs import Assumptions, pair_timings, saving
from tests.app.test_app import app, page_text

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def timings() -> list[saa.Timing]:
    evaluation = service.Client().model("smollm2").spec.evaluation
    return [saa.Timing(**row) for row in evaluation["timings"]]


def cost(**address: str):
    return app(**address).switch_page("views/cost.py").run()


def test_the_bill_is_that_of_the_library(timings) -> None:
    at = cost(c_requests="3000000", c_price="1.5", c_peak="2", c_busy="50", c_tokens="2048")
    assert not at.exception
    assert not at.error
    part = next(part for part in pair_timings(timings) if part.tokens == 2048)
    found = saving(part, Assumptions(3_000_000, 1.5, 2.0, 0.5))
    words = text.load("en")
    assert bill.amount(found.monthly, "USD") in at.header[0].value
    assert words.percent(found.share[1]) in at.header[0].value
    machines = at.table[0].value.loc["Machines"]
    for side, shown in (("Dense", found.dense), ("SAA", found.saa)):
        assert machines[side].startswith(f"{shown.machines[1]:,}")
    assert list(at.table[1].value.index) == [f"{part.tokens:,}" for part in pair_timings(timings)]
    assert at.query_params["c_requests"] == "3000000"


def test_it_says_plainly_that_short_texts_save_nothing() -> None:
    at = cost(c_tokens="128", c_currency="JPY", c_price="60")
    assert "saves nothing: it is slower than dense" in at.header[0].value
    assert "¥" in at.header[0].value


def test_every_assumption_moves_the_result(timings) -> None:
    at = cost(c_tokens="4096")
    before = at.table[0].value.loc["Cost per month"]["Dense"]
    for name, value in (("requests", 2e6), ("price", 0.8), ("peak", 4.0), ("busy", 40.0)):
        at.number_input(key=f"cost_{name}").set_value(value).run()
        after = at.table[0].value.loc["Cost per month"]["Dense"]
        assert after != before, name
        before = after
    saved = at.header[0].value
    at.number_input(key="cost_share").set_value(50.0).run()
    assert at.header[0].value != saved


def test_a_model_without_measured_times_gets_no_figure() -> None:
    at = cost(model="minilm")
    assert not at.exception
    assert "No times have been measured" in page_text(at)
    assert not at.table
    assert not at.header


def test_times_of_another_setting_are_said_to_be_so() -> None:
    at = cost(mass="0.80")
    assert any("not with" in warning.value for warning in at.warning)


def test_it_begins_at_the_first_length_at_which_time_is_saved(timings) -> None:
    at = cost()
    saved = [part.tokens for part in pair_timings(timings) if part.ratio[0] > 1]
    assert at.query_params["c_tokens"] == str(saved[0])
    assert saved[0] < max(part.tokens for part in pair_timings(timings))


def test_an_address_that_makes_no_sense_is_ignored() -> None:
    at = cost(c_requests="nan", c_price="-1", c_busy="x", c_tokens="77", c_currency="<b>")
    assert not at.exception
    assert at.number_input(key="cost_requests").value == bill.START["requests"]
    assert at.selectbox(key="cost_currency").value == "USD"
