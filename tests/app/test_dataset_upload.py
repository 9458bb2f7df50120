"""A visitor's table on the Dataset page with a real task: read, counted, audited, cancelled, taken up again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app import service, text
from app.components.dataset.upload import TABLES
from saa_core.audit.audit import Done
from saa_core.audit.figures import about, audits
from saa_core.store import Store
from tests.app.test_app import HOSTILE, app, figure, page_text

pytestmark = pytest.mark.model
WORDS = text.load("en")
MODEL = "minilm + sentences"
TEXTS = (
    "A warm and funny film that never outstays its welcome.",
    "I waited 45 minutes and the food was cold.",
    "Nobody could call it a failure.",
    "The second half drags.",
)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SAA_STORE", str(tmp_path / "store"))
    # Every text is a turn of its own.
    monkeypatch.setattr("app.components.shared.resumable.TURN", 0.0)
    monkeypatch.setattr(service, "AUDIT_SECONDS", 0.0)
    return Store()


def with_table(name: str, content: str | bytes, model: str = MODEL, lang: str = "en") -> AppTest:
    at = app(model=model, lang=lang)
    at.switch_page("views/dataset.py").run()
    at.button(key="request").click().run()
    raw = content if isinstance(content, bytes) else content.encode()
    at.file_uploader(key="table").set_value((name, raw, "application/octet-stream"))
    return at.run()


def jsonl(*texts: str) -> str:
    return "".join(
        json.dumps({"id": f"n{at}", "text": each}) + "\n" for at, each in enumerate(texts)
    )


def audited(at: AppTest) -> AppTest:
    at.button(key="upload_start").click().run()
    while at.session_state["upload_running"]:
        at.run()
    assert not at.exception
    return at


def test_a_table_is_audited_cancelled_and_taken_up_again(store: Store) -> None:
    at = with_table("Reviews (2024).jsonl", jsonl(*TEXTS))
    assert not at.exception
    assert WORDS("upload.will_run", texts=4, rows=4) in page_text(at)
    assert at.selectbox(key="table_column").options == ["text", "id"]
    at.button(key="upload_start").click().run()
    at.button(key="upload_stop").click().run()
    (found,) = at.session_state["uploads"].values()
    assert 0 < len(found) < len(TEXTS)
    assert {done.run for done in found} < set(store.ids())
    (which,) = audits(store)
    assert which.texts == len(found)
    assert which.key.startswith("Reviews2024-")
    assert figure(at, "Texts") == str(len(found)), "the page shows what was run"
    assert WORDS("upload.resume", texts=4 - len(found)) == at.button(key="upload_start").label
    audited(at)
    assert figure(at, "Texts") == "4"
    assert at.selectbox(key="audit").value == which.key
    assert "All 4 texts are stored" in at.success[0].value
    assert not [button for button in at.button if button.key in ("upload_start", "upload_stop")]
    # A visitor who comes back with the same table runs nothing again.
    before = store.version()
    again = audited(with_table("Reviews (2024).jsonl", jsonl(*TEXTS)))
    (found,) = again.session_state["uploads"].values()
    assert [done.new for done in found] == [False] * 4
    assert store.version() == before
    assert about(store, which.key).texts == 4


def test_two_settings_are_compared_on_the_page(store: Store) -> None:
    at = audited(with_table("mine.csv", "text\n" + "\n".join(TEXTS)))
    assert WORDS("against.nothing") in page_text(at)
    assert at.select_slider(key="tokens").value != 0.3
    at.select_slider(key="tokens").set_value(0.3).run()
    audited(at)
    new, old = audits(store)
    assert at.selectbox(key="audit").value == new.key
    at.selectbox(key="against").set_value(old.key).run()
    assert not at.exception
    sql = (
        "SELECT count(*) FILTER (WHERE a.label <> b.label) AS changed FROM runs a "
        f"JOIN runs b USING (text) WHERE a.audit = '{new.key}' AND b.audit = '{old.key}'"
    )
    changed = store.query(sql)["changed"][0].as_py()
    assert f"{changed} of 4 texts have another label" in page_text(at)


def test_what_cannot_be_run_is_counted_before_the_run(store: Store) -> None:
    long = "A long film about nothing much. " * 200
    at = with_table("mine.jsonl", jsonl(*TEXTS, "", TEXTS[0], long, long + "The end."))
    shown = page_text(at)
    assert WORDS("upload.will_run", texts=5, rows=8) in shown
    for name, count in (("empty", 1), ("long_cut", 2), ("twice", 2)):
        assert WORDS(f"upload.{name}", count=count, limit=512) in shown
    at.checkbox(key="table_cut").uncheck().run()
    shown = page_text(at)
    assert WORDS("upload.will_run", texts=4, rows=8) in shown
    assert WORDS("upload.long_left", count=2, limit=512) in shown
    assert not store.ids(), "nothing was run for this"


def test_only_the_first_thousand_rows_are_taken() -> None:
    at = with_table("many.csv", "text\n" + "".join(f"Text number {n}.\n" for n in range(1001)))
    assert WORDS("upload.will_run", texts=1000, rows=1000) in page_text(at)
    assert WORDS("upload.first_rows", rows=1000) in page_text(at)


def test_a_plain_text_is_cut_into_windows_of_the_chosen_length() -> None:
    at = with_table("story.txt", "The ferry leaves at nine. " * 100)
    assert at.selectbox(key="table_length").value == 128
    at.selectbox(key="table_length").set_value(64).run()
    assert not at.exception
    (_, found) = at.session_state["table_texts"]
    assert len(found.texts) > 5
    assert at.button(key="upload_start")


@pytest.mark.parametrize("lang", ["en", "ja"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("b.csv", b'text\n""\n'),
        ("c.parquet", b"PAR1"),
        ("d.jsonl", b"[1, 2]\n"),
        ("e.txt", b"\xff\xfe\x00"),
        (f"{HOSTILE.replace('/', '')}.csv", b"\x00\x00\x00"),
    ],
)
def test_a_file_that_cannot_be_used_gives_a_sentence(name: str, content: bytes, lang: str) -> None:
    at = with_table(name, content, lang=lang)
    assert not at.exception
    assert len(at.error) == 1
    assert "/tmp" not in page_text(at), "where it lay on the server is nobody's business"
    assert not [button for button in at.button if button.key == "upload_start"]


def test_a_failing_run_says_so_and_can_be_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Iterator[Done]:
        raise saa.StoreError("the disk is full")

    at = with_table("mine.jsonl", jsonl(*TEXTS))
    with monkeypatch.context() as patch:
        patch.setattr(service.Client, "audit", full)
        at.button(key="upload_start").click().run()
        while at.session_state["upload_running"]:
            at.run()
    assert WORDS("error.store") in [error.value for error in at.error]
    audited(at)
    assert not at.error
    assert figure(at, "Texts") == "4"


def test_an_encoder_without_a_task_has_nothing_to_compare() -> None:
    at = app(model="minilm")
    at.switch_page("views/dataset.py").run()
    at.button(key="request").click().run()
    assert not at.exception
    assert WORDS("upload.no_results", model="minilm") in page_text(at)
    assert not [each for each in at.get("file_uploader") if "table" in str(each)]


def test_every_kind_of_table_of_the_one_reader_can_be_brought() -> None:
    assert {"csv", "jsonl", "parquet"} <= set(TABLES)
