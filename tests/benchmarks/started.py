"""Starts a benchmark as its command does, in this process; and a table of questions for it."""

import json
import runpy
import sys


def start(name: str, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)


def questions(tmp_path, count):
    """A table of so many questions; a sixth or so is for validation and test."""
    asked = [("Where is it?", "Paris"), ("Who was it?", "Ada Lovelace"), ("When?", "in 1815")]
    kinds = ("location", "humans", "date")
    rows = [
        {"text": f"{question} [SEP] {answer} {index}", "label": kinds[index % 3]}
        for index in range(count)
        for question, answer in [asked[index % 3]]
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)
