"""The pictures of the benchmarks, and the style that the command line's other pictures share."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f5fa8", "#d9701a", "#b9c4d0"


def figure(width, height, columns=1):
    """An empty figure of so many inches, and its axes side by side."""
    made = Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes = np.atleast_1d(made.subplots(1, columns))
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25)
    return made, axes


# ISAs of ours in blue, from dark to light; the others in colours that are told apart also without red and green.
_LINES = {
    "avx512": "#123f73",
    "avx2": BLUE,
    "neon": "#1f4e79",
    "base": "#7fa8d6",
    "crossentropy, Numba": "#c2a500",
    "torch": ORANGE,
    "torch.compile": "#8c3d0a",
    "JAX": "#6b4fa0",
    "TensorFlow": "#c2185b",
    "onnxruntime": "#1b9e3f",
    "scipy": "#767f89",
    "scikit-learn": "#2a9d8f",
}


def color_of(name: str) -> str:
    """Of somebody's line or mark."""
    return _LINES[name]


def file_name(op: str) -> str:
    """Of its picture, without the suffix."""
    return op.replace(" + ", "-").replace(" ", "-")


def rates(records: list[dict], op: str, every: bool = False) -> Figure | None:
    """GB/s of the bytes that must move, against the number of classes; the memory's own rate dashed.

    Of float32 normals with the class axis last, each implementation with its best number of threads; None where there
    is nothing to draw. With ``every``, also implementations that have no colour of their own, and sizes without a roof.
    """
    plain = {"op": op, "dtype": "float32", "inputs": "normal", "axis": -1}
    those = [r for r in records if all(r[name] == value for name, value in plain.items())]
    those = [r for r in those if (every or r["roof_gb_per_s"]) and not r.get("option")]
    lines, roofs, colors = {}, {}, _LINES
    if every:
        others = sorted({r["implementation"] for r in those} - {"crossentropy"} - set(_LINES))
        colors = _LINES | {name: f"C{i}" for i, name in enumerate(others)}
    for r in those:
        name, classes = r["isa"] if r["implementation"] == "crossentropy" else r["implementation"], r["shape"][-1]
        if name in colors:
            fastest = lines.setdefault(name, {})
            fastest[classes] = max(fastest.get(classes, 0), r["gb_per_s"])
            if r["roof_gb_per_s"]:
                roofs[classes] = max(roofs.get(classes, 0), r["roof_gb_per_s"])
    if not lines:
        return None
    made, (axes,) = figure(8, 4)
    ticks = sorted({classes for fastest in lines.values() for classes in fastest})
    if roofs:
        across = [min(roofs) * 0.8, *sorted(roofs), max(roofs) * 1.25]  # a dash is seen also where there is one point
        heights = [roofs[min(roofs, key=lambda tick: abs(tick - c))] for c in across]
        axes.plot(across, heights, color="black", ls="--", lw=1.5, label="the roof: memory alone")
    for name in filter(lines.get, colors):
        label = f"crossentropy, {name}" if name in ("avx512", "avx2", "neon", "base") else name
        axes.plot(*zip(*sorted(lines[name].items()), strict=True), color=colors[name], lw=2, marker=".", label=label)
    axes.set_xscale("log")
    axes.set_xticks(ticks, list(map(str, ticks)), rotation=60, ha="right")
    axes.minorticks_off()
    axes.set(xlabel="classes", ylabel="GB/s of the bytes that must move", title=f"{op}, float32")
    axes.set_ylim(bottom=0)
    made.legend(frameon=False, loc="outside right upper")
    return made
