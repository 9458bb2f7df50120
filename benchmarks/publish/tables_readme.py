"""The one table of the README, in each of its languages."""

from typing import Any

HEADS = {
    "en": (
        "| tokens | pairs computed | perplexity, novel / Wikipedia "
        "| whole prompt, AMD EPYC | Intel Xeon |"
    ),
    "ja": (
        "| トークン数 | 計算した組 | パープレキシティ変化（小説 / Wikipedia） "
        "| プロンプト全体の速さ、AMD EPYC | Intel Xeon |"
    ),
}
TIMES = {"en": "{:.2f} times as fast", "ja": "{:.2f} 倍"}


def headline_table(
    prefill: list[dict[str, Any]],
    xeon: list[dict[str, Any]],
    frontier: list[dict[str, Any]],
    language: str,
) -> str:
    """Joint model against dense by length, float32: pairs, perplexity of each text, and both machines.

    Args:
        prefill, xeon: rows of prefill.json and of prefill_xeon.json.
        frontier: rows of frontier.json; perplexity is that of the mass that was timed.
        language: a key of HEADS.
    """
    lines = [HEADS[language], "| ---: | ---: | ---: | ---: | ---: |"]
    for row, other in zip(_float32(prefill), _float32(xeon), strict=True):
        mass = float(row["policy"].removeprefix("mass "))
        texts = " / ".join(
            f"{_increase(frontier, row['length'], mass, text):+.1f} %"
            for text in ("austen", "wikipedia")
        )
        times = [TIMES[language].format(each["prefill_ratio"]) for each in (row, other)]
        lines.append(
            f"| {row['length']:,} | {100 * row['density']:.0f} % | {texts} | {times[0]} | {times[1]} |"
        )
    return "\n".join(lines)


def _float32(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["dtype"] == "float32"]


def _increase(frontier: list[dict[str, Any]], length: int, mass: float, text: str) -> float:
    wanted = {"method": "SAA, joint", "length": length, "aim": mass, "text": text}
    (row,) = (row for row in frontier if all(row[key] == wanted[key] for key in wanted))
    return float(row["ppl_increase_pct"])
