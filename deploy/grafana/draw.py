#!/usr/bin/env python3
"""Draws the dashboards as plain lines and numbers, from the answers of a Prometheus.

For the documentation, not for Grafana's looks: SVG panels on a page, and Chromium makes a picture of it.
`make screenshots` runs a load with an outage, and this.
"""

import argparse
import html
import json
import math
import os
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).parent
COLUMN, ROW, GAP = 58, 32, 6
COLORS = ["#3274d9", "#e0752d", "#299c46", "#a352cc", "#d44a3a", "#1aa3a3", "#b8860b", "#6c6f7d"]
THRESHOLDS = {"green": "#299c46", "orange": "#e0752d", "red": "#d44a3a"}
STYLE = """
body { margin: 0; padding: 16px; background: #f4f5f7; font: 12px 'DejaVu Sans', sans-serif; color: #24292e }
h1 { font-size: 20px; margin: 0 0 4px } p { margin: 0 0 12px; max-width: 1100px; color: #52545c }
.grid { position: relative } .grid > * { position: absolute; box-sizing: border-box }
.row { font-weight: bold; font-size: 14px; padding-top: 10px }
.panel { background: #fff; border: 1px solid #d8dade; border-radius: 3px; overflow: hidden }
.panel b { display: block; padding: 5px 8px 0; white-space: nowrap }
.legend { padding: 0 8px; line-height: 15px; font-size: 10.5px; color: #52545c }
.legend span { white-space: nowrap; margin-right: 10px } .legend i { font-style: normal; font-weight: bold }
text { font: 10px 'DejaVu Sans', sans-serif; fill: #6c6f7d } .big { font-size: 30px; font-weight: bold }
"""


class Source:
    """A Prometheus, a span of time, and what the variables of a dashboard stand for."""

    def __init__(self, url, start, end, rate_interval):
        self.url, self.start, self.end = url, start, end
        self.step = max(1, math.ceil((end - start) / 240))
        self.variables = {
            "$__rate_interval": rate_interval,
            "$job": "catchall",
            "$instance": self.instances("catchall_build_info"),
            "$generator": self.instances("create_events_target_rate"),
        }

    def get(self, page, **parameters):
        url = f"{self.url}/api/v1/{page}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def instances(self, metric):
        return "|".join(map(re.escape, self.get("label/instance/values", **{"match[]": metric})))

    def series(self, expr):
        for name, value in self.variables.items():
            # Inside a string of PromQL a backslash is written twice.
            expr = expr.replace(name, value.replace("\\", "\\\\"))
        span = {"start": self.start, "end": self.end, "step": self.step}
        answer = self.get("query_range", query=expr, **span)
        for one in answer["result"]:
            points = ((moment, float(value)) for moment, value in one["values"])
            yield one["metric"], [(t, v) for t, v in points if math.isfinite(v)]


def number(value, unit):
    """A value as people read it."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        seconds = (5400, 3600, "h"), (90, 60, "min"), (1, 1, "s"), (1e-3, 1e-3, "ms"), (0, 1e-6, "µs")
        for least, factor, name in seconds:
            if abs(value) >= least:
                return f"{value / factor:.3g} {name}" if value else "0 s"
    base, names = (1024, " KMGT") if unit in ("bytes", "Bps") else (1000, " kMGT")
    power = 0
    while abs(value) >= base and power < 4:
        value, power = value / base, power + 1
    tail = {"bytes": "B", "Bps": "B/s", "reqps": "/s", "eps": "/s", "ops": "/s"}.get(unit, "")
    if power and base == 1024:
        tail = "i" + tail
    shown = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{shown} {names[power].strip()}{tail}".strip()


def ticks(low, high, unit, logarithmic=False):
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [10.0**power for power in powers[:: max(1, len(powers) // 5)]]
    least = (high - low) / 5
    if unit in ("bytes", "Bps"):
        step = 2 ** math.ceil(math.log2(least))
    elif unit == "s" and least > 6:
        step = next(s for s in (10, 15, 30, 60, 300, 900, 3600, 21600, 86400, 1e6) if s >= least)
    else:
        power = 10 ** math.floor(math.log10(least))
        step = power * next(factor for factor in (1, 2, 5, 10) if power * factor >= least)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def collect(panel, source):
    """The lines of a panel: name and points."""
    found = []
    for target in panel["targets"]:
        # The largest first, in the clearest colours.
        largest = sorted(source.series(target["expr"]), key=lambda one: -sum(v for _, v in one[1]))
        for labels, points in largest:
            legend = target.get("legendFormat", "")
            name = re.sub(r"\{\{(\w+)\}\}", lambda it, of=labels: of.get(it[1], ""), legend)
            if points:
                found.append((name or "value", points))
    return found


def path(points, x, y, gap):
    """A line that breaks where values are missing."""
    parts, last = [], None
    for moment, value in points:
        joined = last is not None and moment - last <= gap
        parts.append(f"{'L' if joined else 'M'}{x(moment):.1f} {y(value):.1f}")
        if not joined:
            # Something to see of a lone point.
            parts.append("h1")
        last = moment
    return " ".join(parts)


def bounds(values, defaults, logarithmic):
    values = [value for value in values if value > 0 or not logarithmic]
    if not values:
        return (0.1, 1) if logarithmic else (0, 1)
    low, high = min(values), max(values)
    if logarithmic:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        return (low, high) if low < high else (low / 10, high)
    low = min(low, defaults.get("min", low))
    if high <= low:
        low, high = (low, low + 1) if low >= 0 else (low - 1, low + 1)
    return low, high + (high - low) * 0.05


def timeline(source, left, right, top, bottom):
    """Where a moment is, and the axis that says so."""

    def x(moment):
        return left + (moment - source.start) / (source.end - source.start) * (right - left)

    axis = []
    for moment in ticks(0, source.end - source.start, "s"):
        at = x(source.start + moment)
        clock = f"{int(moment) // 60}:{int(moment) % 60:02}"
        axis.append(f'<path d="M{at:.1f} {top}V{bottom}" stroke="#f0f1f3"/>')
        axis.append(f'<text x="{at:.1f}" y="{bottom + 13}" text-anchor="middle">{clock}</text>')
    return x, axis


def drawn(width, bottom, svg, legend):
    svg = f'<svg width="{width - 2}" height="{bottom + 18}">{"".join(svg)}</svg>'
    return f'{svg}<div class="legend">{"".join(legend)}</div>'


def lanes(panel, source, width, height):
    """A bar for each line, in the colour of its state."""
    found, states = collect(panel, source), panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    left, top, bottom = 262, 6, min(height - 62, 6 + 24 * len(found))
    x, svg = timeline(source, left, width - 10, top, bottom)
    for lane, (name, points) in enumerate(found):
        high = (bottom - top) / len(found)
        at, high = top + high * lane, high - 4
        svg.append(f'<text x="{left - 8}" y="{at + high - 5:.1f}" text-anchor="end">{name}</text>')
        for moment, value in points:
            color, end = THRESHOLDS[states[f"{value:g}"]["color"]], min(moment + source.step, source.end)
            wide = x(end) - x(moment) + 0.3
            svg.append(f'<path d="M{x(moment):.1f} {at:.1f}h{wide:.1f}v{high:.1f}h-{wide:.1f}" fill="{color}" shape-rendering="crispEdges"/>')
    legend = (f'<i style="color:{THRESHOLDS[it["color"]]}">■</i> {it["text"]} ' for it in states.values())
    return drawn(width, bottom, svg, legend)


def lines(panel, source, width, height):
    defaults = panel["fieldConfig"]["defaults"]
    unit, found = defaults["unit"], collect(panel, source)
    custom = defaults.get("custom", {})
    logarithmic = custom.get("scaleDistribution", {}).get("type") == "log"
    steps = defaults["thresholds"]["steps"][1:] if "thresholdsStyle" in custom else []
    low, high = bounds([v for _, points in found for _, v in points], defaults, logarithmic)

    legend_lines = max(1, math.ceil(sum(len(name) * 6.4 + 75 for name, _ in found) / (width - 20)))
    left, right, top, bottom = 62, width - 10, 6, height - 46 - 15 * min(legend_lines, 4)
    x, svg = timeline(source, left, right, top, bottom)

    def y(value):
        if logarithmic:
            value, bottom_value, top_value = (math.log10(max(v, low)) for v in (value, low, high))
        else:
            bottom_value, top_value = low, high
        return bottom - (value - bottom_value) / (top_value - bottom_value) * (bottom - top)

    for value in ticks(low, high, unit, logarithmic):
        if low <= value <= high:
            at, told = y(value), number(value, unit)
            svg.append(f'<path d="M{left} {at:.1f}H{right}" stroke="#e6e7ea"/>')
            svg.append(f'<text x="{left - 6}" y="{at + 3:.1f}" text-anchor="end">{told}</text>')
    for step in steps:
        if low <= step["value"] <= high:
            color, at = THRESHOLDS[step["color"]], y(step["value"])
            svg.append(f'<path d="M{left} {at:.1f}H{right}" stroke="{color}" stroke-dasharray="5 4"/>')
    legend = []
    for number_, (name, points) in enumerate(found):
        color = COLORS[number_ % len(COLORS)]
        dashes = f' stroke-dasharray="{2 + number_ // 8 * 3} 2"' if number_ >= len(COLORS) else ""
        line = path(points, x, y, 3 * source.step)
        svg.append(f'<path d="{line}" stroke="{color}" fill="none" stroke-width="1.4"{dashes}/>')
        ended = points[-1][0] < source.end - 5 * source.step
        last = html.escape(name), "" if ended else number(points[-1][1], unit)
        legend.append('<span><i style="color:%s">—</i> %s <i>%s</i></span> ' % (color, *last))
    if not found:
        svg.append(f'<text x="{(left + right) / 2}" y="{height / 2 - 20}">No data</text>')
    return drawn(width, bottom, svg, legend)


def stat(panel, source, width, height):
    defaults = panel["fieldConfig"]["defaults"]
    if not (found := collect(panel, source)):
        return '<svg><text class="big" x="12" y="44">No data</text></svg>'
    last = (points := found[0][1])[-1][1]
    reached = [s for s in defaults["thresholds"]["steps"] if s.get("value") is None or last >= s["value"]]
    plain = panel["options"].get("colorMode") == "none"
    color = "#24292e" if plain else THRESHOLDS[reached[-1]["color"]]
    low, high = bounds([value for _, value in points], {"min": 0}, False)

    def x(moment):
        return (moment - source.start) / (source.end - source.start) * width

    def y(value):
        return height - 30 - (value - low) / (high - low) * 38

    return (
        f'<svg width="{width}" height="{height - 26}">'
        f'<path d="{path(points, x, y, 3 * source.step)}" stroke="{color}" fill="none" opacity="0.5"/>'
        f'<text class="big" x="10" y="40" style="fill:{color}">{number(last, defaults["unit"])}</text>'
        "</svg>"
    )


def page(dashboard, source):
    bodies, bottom = [], 0
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        left, top = at.get("x", 0) * COLUMN, at.get("y", 0) * ROW
        width, height = at["w"] * COLUMN - GAP, at["h"] * ROW - GAP
        bottom = max(bottom, top + height)
        where = f'style="left:{left}px;top:{top}px;width:{width}px;height:{height}px"'
        title = html.escape(panel["title"])
        if panel["type"] == "row":
            bodies.append(f'<div class="row" {where}>{title}</div>')
            continue
        draw = {"stat": stat, "timeseries": lines, "state-timeline": lanes}[panel["type"]]
        body = draw(panel, source, width, height)
        bodies.append(f'<div class="panel" {where}><b>{title}</b>{body}</div>')
    head = f"<h1>{html.escape(dashboard['title'])}</h1><p>{html.escape(dashboard['description'])}</p>"
    style = f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style>'
    markup = f'{style}{head}<div class="grid">{"".join(bodies)}</div>'
    return markup, (24 * COLUMN + 32, bottom + 100)


def photograph(markup, size, target):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "page.html")
        file.write_text(markup)
        # Chromium's sandbox refuses to run as root.
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = ["chromium", "--headless", "--disable-gpu", "--hide-scrollbars", *sandbox]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}"]
        command += [f"--screenshot={target.resolve()}", file.as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)
    if not target.exists():
        raise SystemExit(f"chromium made no {target}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", required=True, help="its URL")
    parser.add_argument("--start", type=float, required=True, help="in seconds since 1970")
    parser.add_argument("--end", type=float, default=time.time())
    parser.add_argument("--rate-interval", default="20s")
    parser.add_argument("--to", type=pathlib.Path, required=True, help="a folder for the pictures")
    arguments = parser.parse_args()
    source = Source(arguments.prometheus, arguments.start, arguments.end, arguments.rate_interval)
    arguments.to.mkdir(parents=True, exist_ok=True)
    for file in sorted(HERE.glob("dashboards/*.json")):
        markup, size = page(json.loads(file.read_text()), source)
        photograph(markup, size, arguments.to / f"{file.stem}.png")


if __name__ == "__main__":
    main()
