"""A plot of one result: the benchmark's own, or a bar for each figure that has a spread."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from perf import compare

UNITS = {
    "_per_s_": "per second",
    "ratio_": "ratio",
    "efficiency_": "ratio",
    "share_": "ratio",
    "_ms_": "ms",
    "_us_": "us",
    "_s_": "s",
    "_mib_": "MiB",
    "_percent_": "%",
}
"""What a figure is counted in, by what its name has in it; the first that fits."""
WIDTH_INCHES = 8
DPI = 150


def is_possible() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def save(result: dict[str, Any], module: str, path: Path) -> None:
    """Draw what `--json` prints of the benchmark of a dotted name. No display is needed."""
    from matplotlib import rc_context  # noqa: PLC0415 - only who draws needs it; and without pyplot no display
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(WIDTH_INCHES, 4.5), layout="constrained")
    draw = getattr(importlib.import_module(module), "draw", bars)
    draw(result, figure)
    with rc_context({"svg.fonttype": "none"}):  # text as text: letters drawn as curves make a file three times as large
        figure.savefig(path, dpi=DPI)


def bars(result: dict[str, Any], figure: Any) -> None:
    """A panel for each unit; in it a bar for each median, with its spread."""
    groups: dict[str, list[str]] = {}
    for name in result["spread"]:
        groups.setdefault(unit(name), []).append(name)
    heights = [len(names) + 1 for names in groups.values()]
    figure.set_size_inches(WIDTH_INCHES, 1.0 + 0.42 * sum(heights))
    figure.suptitle(
        f"{result['benchmark']}: durability {result['durability']}, medians of {result['rounds']} rounds\n"
        f"{result['machine']}",
        fontsize="medium",
    )
    panels = figure.subplots(len(groups) or 1, squeeze=False, height_ratios=heights or [1])[:, 0]
    for panel, (label, names) in zip(panels, groups.items(), strict=False):
        medians = [result[name] for name in names]
        reach = [
            [median - result["spread"][name][0] for name, median in zip(names, medians, strict=True)],
            [result["spread"][name][1] - median for name, median in zip(names, medians, strict=True)],
        ]
        drawn = panel.barh(names, medians, xerr=reach, height=0.6, color="#4c78a8", ecolor="#222222", capsize=3)
        panel.bar_label(drawn, [compare.text(median) for median in medians], padding=6, fontsize="small")
        panel.margins(x=0.15)
        panel.invert_yaxis()
        panel.set_xlabel(label)
        panel.xaxis.set_major_formatter("{x:,.10g}")
        panel.spines[["top", "right"]].set_visible(False)


def unit(name: str) -> str:
    """What a figure is counted in, by its name."""
    return next((word for mark, word in UNITS.items() if mark in f"{name}_"), "")
