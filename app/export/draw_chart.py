"""A program of its own: reads Vega-Lite, writes the picture. Started by drawing.py; imports nothing of ours.

python draw_chart.py png < chart.json > chart.png
"""

import sys

import vl_convert

SHARPNESS = 2.0
"""Pixels of a PNG per point of the chart."""


def main(kind: str) -> None:
    specification = sys.stdin.buffer.read().decode()
    # No address is allowed, so nothing is fetched, whatever a chart might ask for.
    if kind == "png":
        drawn = vl_convert.vegalite_to_png(specification, scale=SHARPNESS, allowed_base_urls=[])
    else:
        drawn = vl_convert.vegalite_to_svg(specification, allowed_base_urls=[]).encode()
    sys.stdout.buffer.write(drawn)


if __name__ == "__main__":
    main(sys.argv[1])
