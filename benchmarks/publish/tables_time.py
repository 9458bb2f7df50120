"""Tables of timings, and the machine that they are from."""

import platform
from typing import Any

import saa_core as saa


def machine(timing: saa.Timing) -> str:
    """What the timings were taken on, in a few words."""
    versions = timing.versions
    return (
        f"{timing.threads} {platform.machine()} cores ({versions['cpu']}), {timing.device}, "
        f"{timing.dtype}, torch {versions['torch']}"
    )


def latency_table(timings: list[saa.Timing]) -> str:
    lines = [
        "| tokens | kernel | density | attention, times faster (quartiles) "
        "| whole prefill, times faster (quartiles) |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    for dense, sparse in zip(timings[::2], timings[1::2], strict=True):
        ratios = [sparse.ratio(dense, field) for field in ("attention_ms", "samples_ms")]
        cells = " | ".join(f"{mid:.2f} ({low:.2f} to {high:.2f})" for low, mid, high in ratios)
        lines.append(f"| {dense.length:,} | {sparse.kernel} | {sparse.density:.2f} | {cells} |")
    return "\n".join(lines)


def prefill_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| tokens | weights | policy | pairs kept | perplexity | attention, times faster "
        "| prefill, times faster | efficiency | peak memory, dense / SAA |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratios = [
            f"{row[f'{what}_ratio']:.2f} ({low:.2f} to {high:.2f})"
            for what in ("attention", "prefill")
            for low, high in [row[f"{what}_ratio_quartiles"]]
        ]
        peaks = [f"{(row['peak_bytes'][side] or 0) / 2**30:.1f}" for side in ("dense", "saa")]
        lines.append(
            f"| {row['length']:,} | {row['dtype']} | {row['policy']} | {row['density']:.2f} "
            f"| {row['ppl_increase_pct']:+.2f} % | {ratios[0]} | {ratios[1]} "
            f"| {row['efficiency']:.2f} | {' / '.join(peaks)} GiB |"
        )
    return "\n".join(lines)


def app_table(ui: dict[str, Any], store: dict[str, Any]) -> str:
    """How quickly the app answers; medians."""
    run, memory = ui["run"]["median_ms"], ui["sessions"]
    switches = {stage: [row["median_ms"][stage] for row in ui["page_switch"]] for stage in STAGES}
    clicks = [
        (
            f"click in the map of {row['tokens']:,} tokens to the new window of {row['window']}",
            f"{row['median_ms'] / 1000:.2f} s",
        )
        for row in ui["gate_map_click"]
    ]
    rows = [
        (
            f"Run, {ui['run']['tokens']} tokens, to the first figures",
            f"{run['first'] / 1000:.1f} s",
        ),
        ("to all four figures", f"{run['all'] / 1000:.1f} s"),
        ("to both continuations", f"{run['written'] / 1000:.1f} s"),
        *clicks,
        *(
            (
                f"change of pages with a run open, to {STAGES[stage]}",
                f"{min(found) / 1000:.2f} to {max(found) / 1000:.2f} s",
            )
            for stage, found in switches.items()
        ),
        (
            f"memory per open session with a run ({memory['sessions']} sessions)",
            f"{memory['growth_mib_each']:.0f} MiB",
        ),
        (f"list of {store['traces']:,} stored runs", f"{store['list']['median_s']:.2f} s"),
        (
            f"an average over {store['head_rows']:,} rows of heads in SQL",
            f"{store['aggregate']['median_s']:.2f} s",
        ),
        ("link to a stored run, new browser session", f"{store['link']['median_s']:.2f} s"),
        ("the same run in the explorer", f"{store['explorer']['median_s']:.1f} s"),
    ]
    lines = ["| what | median |", "| --- | ---: |"]
    return "\n".join(lines + [f"| {what} | {value} |" for what, value in rows])


STAGES = {"title": "its title", "rest": "all of it"}
