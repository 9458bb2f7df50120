"""The client without a page: how often a model runs for one press, and which models stay loaded."""

import ast
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app.live import passes as passes_module
from app.live.answers import REPEATS
from app.live.jobs import JOBS
from app.live.models import ModelRegistry
from app.live.results import SHARED
from app.live.values import Request
from app.service import Client
from saa_core.guard import Inspection

ROOT = Path(__file__).parents[2]
TEXT = (
    "The ferry leaves at nine. If the sea is calm, the ferry reaches the island by ten, and the "
    "passengers have five hours to see the chapel, the old harbour and the three windmills."
)


@contextmanager
def passes(model: saa.Model) -> Iterator[list[int]]:
    """Tokens of every forward pass of a model, in order."""
    found: list[int] = []
    hook = model.hf.base_model.register_forward_hook(
        lambda module, given, out: found.append(out.last_hidden_state.shape[1])
    )
    try:
        yield found
    finally:
        hook.remove()


def quiet(step: str, share: float, **known: object) -> None:
    pass


@pytest.fixture(autouse=True)
def recorded_runs() -> None:
    """In place of the one of this folder: here the real client's passes are counted, once the rounds that another
    test walked away from have ended."""
    until = time.monotonic() + 60
    while JOBS._running and time.monotonic() < until:
        time.sleep(0.05)
    SHARED.clear()


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


POLICIES = {
    "mass": saa.Policy(mass=0.8),
    "budget": saa.Policy(budget=0.4),
    "falls back": saa.Policy(mass=0.8, fallback="dense", crossover=4096),
    "guard": saa.Policy(mass=0.9, guard=saa.Guard(0.2)),
}


@pytest.mark.model
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_press_reads_a_text_twice_and_has_first_times_from_these_passes(client, policy) -> None:
    request = Request("smollm2", TEXT, policy)
    with passes(client.model("smollm2")) as found:
        result = client.run(request, quiet)
        length = result.trace.keys
        reruns = sum(event["suspected"] == "bound" for event in result.trace.events)
        assert reruns == 0, "the policy is meant to pass its guard"
        assert found.count(length) == 2
        assert set(found) <= {length, 1}, "beyond the two, single tokens only"
        assert result.words
        assert result.dense_words
        assert result.trace.top_ids is not None
        assert len(result.timing.samples_ms) == len(result.dense_timing.samples_ms) == 1
        assert 0 < result.rounds_left <= REPEATS
        *_, last = client.time(result, quiet)
        assert found.count(length) == 2 + 2 * result.rounds_left
    assert last.rounds_left == 0
    assert result.timing.samples_ms[0] not in last.timing.samples_ms, (
        "recorded passes run other code; their times stand only until the clock's"
    )
    assert len(last.timing.samples_ms) == len(last.dense_timing.samples_ms) == last.rounds
    assert last.trace.timing == (last.dense_timing, last.timing)
    assert last.words == "".join(
        saa.generate(client.model("smollm2"), TEXT, policy, max_new_tokens=6)
    )


@pytest.mark.model
def test_a_guard_that_cannot_vouch_has_its_dense_rerun_in_the_times(client, monkeypatch) -> None:
    monkeypatch.setattr(Inspection, "_look_ahead", lambda self, layer, worst_B: None)
    monkeypatch.setattr(
        Inspection,
        "_look",
        lambda self, layer, probe, decision, planned: (decision, torch.zeros(1)),
    )
    policy = saa.Policy(mass=0.5, sink=0, local=1, guard=saa.Guard(0.05, rows=4))
    with passes(client.model("smollm2")) as found:
        result = client.run(Request("smollm2", TEXT, policy), quiet)
        assert "bound" in [event["suspected"] for event in result.trace.events]
        read = found.count(result.trace.keys)
        times = client.time(result, quiet)
        next(times)
        assert found.count(result.trace.keys) - read == 3, "dense, SAA and the rerun of SAA"


@pytest.mark.model
def test_another_setting_of_the_same_text_does_not_read_it_densely_again(client) -> None:
    first = client.run(Request("smollm2", TEXT, saa.Policy(mass=0.8)), quiet)
    with passes(client.model("smollm2")) as found:
        second = client.run(Request("smollm2", TEXT, saa.Policy(mass=0.6)), quiet, first)
    assert found.count(second.trace.keys) == 1
    assert second.dense is first.dense
    assert second.dense_words == first.dense_words


@pytest.mark.model
def test_the_page_makes_no_pass_beyond_those_of_the_client(client, monkeypatch) -> None:
    monkeypatch.setattr(Client, "cold", lambda self, name: [])
    at = AppTest.from_file(str(ROOT / "app" / "router.py"), default_timeout=300)
    at.query_params["lang"], at.query_params["model"] = "en", "smollm2"
    at.run()
    at.text_area(key="text").set_value(TEXT)
    with passes(client.model("smollm2")) as found:
        at.button(key="run").click().run()
        (result,) = at.session_state["results"].values()
        assert found.count(result.trace.keys) == 2 + 2 * result.rounds
        assert set(found) == {result.trace.keys, 1}
        done = len(found)
        at.number_input(key="layer").set_value(3).run()
        assert len(found) == done
    assert not at.exception


@pytest.mark.model
def test_an_encoder_is_read_twice_and_writes_nothing(client) -> None:
    with passes(client.model("minilm")) as found:
        result = client.run(Request("minilm", TEXT, saa.Policy(mass=0.8)), quiet)
    assert found == [result.trace.keys] * 2
    assert result.words is None
    assert result.comparison.kl is None


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Names that were loaded, by a loader that is as fast as can be."""
    found: list[str] = []

    def load(name: str, **about: object) -> SimpleNamespace:
        found.append(name)
        return SimpleNamespace(name=name)

    monkeypatch.setattr(saa, "load", load)
    return found


def test_the_least_recently_used_model_goes_first(loads) -> None:
    registry = ModelRegistry(kept=2)
    for name in ("a", "b", "a", "c"):
        registry.get(name)
    assert registry.loaded == ("a", "c")
    assert loads == ["a", "b", "c"]
    registry.get("b")
    assert registry.loaded == ("c", "b"), "the model that was just loaded stays"


def test_a_model_in_use_is_not_evicted(loads) -> None:
    registry = ModelRegistry(kept=1)
    registry.get("a")
    with registry.run("a"):
        registry.get("b")
        assert registry.loaded == ("a", "b")
    registry.get("c")
    assert registry.loaded == ("c",)


def test_a_model_that_warmed_up_is_cold_again_after_it_was_evicted(loads) -> None:
    registry = ModelRegistry(kept=1)
    registry.get("a")
    registry.set_warm("a", "short")
    assert registry.warm("a") == {"short"}
    registry.get("b")
    assert registry.warm("a") == frozenset()


def test_runs_do_not_wait_while_a_model_is_loaded(monkeypatch) -> None:
    registry, begun, go_on = ModelRegistry(), threading.Event(), threading.Event()
    registry.put("here", SimpleNamespace())

    def slow(name: str, **about: object) -> SimpleNamespace:
        begun.set()
        assert go_on.wait(30)
        return SimpleNamespace(name=name)

    monkeypatch.setattr(saa, "load", slow)
    loading = threading.Thread(target=registry.get, args=("far",))
    loading.start()
    assert begun.wait(30)
    ran = threading.Event()

    def run() -> None:
        registry.get("here")
        with registry.run("here"):
            ran.set()

    running = threading.Thread(target=run)
    running.start()
    assert ran.wait(30), "a run waits for somebody else's model"
    go_on.set()
    running.join(30)
    loading.join(30)
    assert "far" in registry.loaded


def test_two_who_ask_for_a_model_at_once_load_it_once(monkeypatch) -> None:
    registry, count, go_on = ModelRegistry(), list[str](), threading.Event()

    def slow(name: str, **about: object) -> SimpleNamespace:
        count.append(name)
        assert go_on.wait(30)
        return SimpleNamespace(name=name)

    monkeypatch.setattr(saa, "load", slow)
    found: list[object] = []
    both = [threading.Thread(target=lambda: found.append(registry.get("one"))) for _ in range(2)]
    for thread in both:
        thread.start()
    go_on.set()
    for thread in both:
        thread.join(30)
    assert count == ["one"]
    assert found[0] is found[1]


def test_the_client_needs_no_page() -> None:
    code = "import sys, app.service; print('streamlit' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


def test_a_page_shows_no_string_of_its_script(monkeypatch) -> None:
    """Streamlit draws a string that stands alone in the script it runs, such as a comment in quotes."""
    monkeypatch.setattr(Client, "cold", lambda self, name: [])
    at = AppTest.from_file(str(ROOT / "app" / "router.py"), default_timeout=300)
    at.query_params["lang"] = "ja"
    at.run()
    drawn = [element.value for element in at.main.markdown]
    assert drawn, "the stories"
    for script in ("router.py", "views/explore.py"):
        tree = ast.parse((ROOT / "app" / script).read_text("utf-8"))
        alone = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
        strings = {node.value for node in alone if isinstance(node, ast.Constant)}
        assert strings.isdisjoint(drawn)


@pytest.mark.model
def test_who_asks_for_the_same_gets_the_same_without_another_pass(client) -> None:
    request = Request("smollm2", TEXT, saa.Policy(mass=0.7))
    first = client.run(request, quiet)
    *_, timed = client.time(first, quiet)
    with passes(client.model("smollm2")) as found:
        again = Client().run(request, quiet)
        assert again.complete
        assert list(Client().time(again, quiet)) == []
        assert list(Client().time(first, quiet)) == [again], (
            "who came in the middle hears of the rest"
        )
    assert found == []
    assert again.trace.timing == timed.trace.timing


@pytest.mark.model
def test_a_long_text_is_estimated_first_and_says_so(client, novel, monkeypatch) -> None:
    monkeypatch.setattr(passes_module, "EXACT", 100)
    monkeypatch.setattr(passes_module, "MASS_ROWS", 32)
    monkeypatch.setattr(passes_module, "POSITIONS", 24)
    policy = saa.Policy(mass=0.8, granularity="block")
    steps: list[tuple[str, dict[str, object]]] = []
    request = Request("smollm2", novel[:1200], policy)
    first = client.run(request, lambda step, share, **known: steps.append((step, known)))
    assert len(first.comparison.kl) == len(first.compared_at) == 24
    assert first.compared_at[-1] == first.trace.keys - 1
    assert len(first.trace.mass_queries) == 32
    assert {step for step, _ in steps} <= {"wait", "dense", "sparse", "compare"}
    *_, last = client.time(first, quiet)
    assert last.complete
    assert len(last.comparison.kl) == last.trace.keys
    assert last.trace.top_ids is not None
    exact = saa.run(client.model("smollm2"), request.text, policy)
    assert (last.trace.density == exact.density).all(), "decisions are the same"
    low, high = last.trace.retained_interval()
    assert low < exact.retained_mass.mean() < high
    estimate = first.comparison.top1_agreement.mean()
    assert abs(estimate - last.comparison.top1_agreement.mean()) < 0.25
