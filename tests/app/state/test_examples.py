"""The examples that ship."""

import tomllib

from app.state import examples
from saa_core.data import fetch


def test_examples_are_complete_and_say_where_they_come_from() -> None:
    folder = fetch.assets() / "examples"
    entries = tomllib.loads((folder / "examples.toml").read_text("utf-8"))["example"]
    assert len(examples.examples()) == len(entries) >= 8
    assert all(entry["licence"] and entry["source"] for entry in entries)
    assert all(example.text.strip() for example in examples.examples().values())
