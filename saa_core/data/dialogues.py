"""Readers of dialogues: questions and answers, and what is said in games."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from saa_core.data.packages import Named, members, mixed, without_repetitions

NAMES = {"first": "Robin", "last": "Hale", "ship": "Wren"}
"""For the placeholders of a player and a ship."""
SPEECH = re.compile(
    r'\[(?P<event>message)\]|speaker\s*=\s*"?(?P<speaker>[^"\n]+)'
    r'|(?:message|story)\s*=\s*_\s*"(?P<words>(?:[^"]|"")*)"'
)
"""Of a campaign of Battle for Wesnoth: the start of a message, who says it, and what is said."""


def chats(file: Path) -> Named:
    """Each conversation once: who asks and who answers in turns."""
    found = dict[str, None]()
    for _, text in members(file, "chatterbot_corpus/data/english/*.yml"):
        turns = list[str]()
        for line in text[text.find("\nconversations:") :].split("\n"):
            if turn := re.match(r"(- -|  -)(?: (.*))?$", line):
                if turn[1] == "- -":
                    found[_chat(turns)] = None
                    turns = []
                turns.append(turn[2] or "")
            elif line.startswith("   ") and turns:
                turns[-1] += f" {line.strip()}"
        found[_chat(turns)] = None
    yield from mixed(
        (hashlib.sha256(text.encode()).hexdigest()[:12], text) for text in found if text
    )


def _chat(turns: list[str]) -> str:
    who = ("User", "Assistant")
    return "\n".join(f"{who[n % 2]}: {_unquoted(turn)}" for n, turn in enumerate(turns))


def _unquoted(scalar: str) -> str:
    """A scalar of YAML without its quotation marks."""
    if len(scalar) > 1 and scalar[0] == scalar[-1] == "'":
        return scalar[1:-1].replace("''", "'")
    if len(scalar) > 1 and scalar[0] == scalar[-1] == '"':
        return scalar[1:-1].replace('\\"', '"')
    return scalar


def endless_sky(file: Path) -> Named:
    """Conversations of missions; what the player may answer begins with ">"."""
    yield from mixed(without_repetitions(_missions(file), shortest=200))


def _missions(file: Path) -> Named:
    for path, text in members(file, "*.txt"):
        if Path(path).name not in ("map.txt", "tooltips.txt", "help.txt"):
            for number, mission in enumerate(re.split(r"(?m)^(?=\w)", text)):
                words = "\n\n".join(_conversation(mission))
                filled = re.sub(r"<(\w+)>", lambda name: NAMES.get(name[1], name[1]), words)
                yield f"{Path(path).stem}: {number}", filled


def _conversation(mission: str) -> Iterator[str]:
    asked = None
    for line in mission.split("\n"):
        depth = len(line) - len(line.lstrip("\t"))
        if line.strip() == "choice":
            asked = depth
        elif said := re.match(r"\t*`\s*([^`]+?)\s*`", line):
            asked = None if asked is not None and depth <= asked else asked
            yield said[1] if asked is None else f"> {said[1]}"


def wesnoth(file: Path) -> Named:
    """Who says what in each scenario; stories stand between."""
    yield from without_repetitions(_scenarios(file))


def _scenarios(file: Path) -> Named:
    for path, text in members(file, "*.cfg"):
        speaker, lines = "", list[str]()
        for found in SPEECH.finditer(text):
            if found["event"]:
                speaker = ""
            elif found["speaker"]:
                speaker = found["speaker"].strip().replace("_", " ")
            else:
                words = re.sub(r"<[^>]*>", "", found["words"].replace('""', '"'))
                named = speaker and speaker != "narrator"
                someone = "Soldier" if re.search(r"unit|\$", speaker) else speaker
                lines.append(f"{someone}: {words}" if named else words)
        yield Path(path).stem, "\n\n".join(lines)
