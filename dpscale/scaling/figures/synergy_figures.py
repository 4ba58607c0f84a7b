"""Fields of `scaling.synergy` as figures (PNG) and tables (CSV).

At every point of a grid over two budgets, an arrow: its components are the falls of
log2(noise-batch ratio) from doubling one or the other, as in section 4.5 of arXiv 2501.18914.
Long arrows mark where budgets are well spent, their direction says which one. Shades behind
them tell the fall when both are doubled, and lines the ratio itself; all of it reads in grey.
"""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dpscale.files import write_bytes_atomically, write_text_atomically
from dpscale.scaling.synergy import FIELD_WIDTH, HALVINGS_BELOW, Arrow, BudgetName, Field

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS: Final[dict[BudgetName, str]] = {
    "privacy": "privacy budget: epsilon",
    "compute": "compute budget: expected batch size (privacy units)",
    "data": "data budget: dataset size (privacy units)",
}
_STYLE: Final[dict[Any, Any]] = {"font.size": 9, "figure.dpi": 130}
_SHADES: Final = "Blues"
_HALVING: Final = 0.92
"""Length of an arrow that stands for a halved ratio, in steps of the grid: it stays in its cell."""

COLUMNS: Final = (
    "epsilon",
    "delta",
    "dataset_size",
    "expected_batch_size",
    "iterations",
    "noise_batch_ratio",
    "log2_fall_x",
    "log2_fall_y",
    "log2_fall_both",
    "status",
)
"""Of the CSV; x and y are named in the file's name. `status` is "ok", or why a row is empty."""


def write_field(field: Field, directory: str | Path) -> tuple[Path, Path]:
    """Writes a field's figure and its arrows into `directory`; returns (PNG, CSV)."""
    name = f"synergy_{field.x}_{field.y}"
    picture, table = Path(directory) / f"{name}.png", Path(directory) / f"{name}.csv"
    write_text_atomically(table, _csv(field))
    write_bytes_atomically(picture, _png(field))
    return picture, table


def _csv(field: Field) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for arrow in field.arrows:
        at = arrow.setting
        numbers = (arrow.noise_batch_ratio, arrow.x_fall, arrow.y_fall, arrow.both_fall)
        writer.writerow(
            (
                *(f"{at.epsilon:.12g}", f"{at.delta:.12g}", f"{at.dataset_size:.12g}"),
                *(f"{at.expected_batch_size:.12g}", at.iterations),
                *("" if arrow.missing else f"{number:.6g}" for number in numbers),
                arrow.missing or "ok",
            )
        )
    return text.getvalue()


def _png(field: Field) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        figure, panel = pyplot.subplots(figsize=(6.4, 5.6))
        _draw(panel, field)
        figure.tight_layout(rect=(0, 0.03, 1, 1))
        content = io.BytesIO()
        figure.savefig(content, format="png")
        pyplot.close(figure)
    return content.getvalue()


def _draw(panel: "Axes", field: Field) -> None:
    """Everything in steps of the grid, so that a doubling is as long either way."""
    shades = panel.pcolormesh(
        _grid(field, lambda arrow: arrow.both_fall), cmap=_SHADES, vmin=0, vmax=2, alpha=0.6
    )
    centres = np.arange(FIELD_WIDTH) + 0.5
    _draw_ratio_lines(panel, field, centres)
    arrows = panel.quiver(
        centres,
        centres,
        _HALVING * _grid(field, lambda arrow: arrow.x_fall),
        _HALVING * _grid(field, lambda arrow: arrow.y_fall),
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.0045,
        color="0.05",
        zorder=3,
    )
    panel.quiverkey(arrows, 0.1, 0.03, _HALVING, "ratio halved", labelpos="E", coordinates="figure")
    for arrow, (row, column) in zip(field.arrows, np.ndindex(_SHAPE), strict=True):
        mark, shade = ("x", "0.6") if arrow.missing else (".", "0.05")
        panel.plot(column + 0.5, row + 0.5, mark, color=shade, markersize=4, zorder=4)
    _label_axes(panel, field)
    bar = panel.figure.colorbar(shades, ax=panel, pad=0.02)
    bar.set_label("halvings of the noise-batch ratio when both budgets are doubled")
    panel.set_title(_title(field), fontsize=9)


_SHAPE: Final = (FIELD_WIDTH, FIELD_WIDTH)


def _grid(field: Field, value: Callable[[Arrow], float]) -> NDArray[np.float64]:
    """float64[y, x]; NaN where there is no arrow."""
    return np.array([value(arrow) for arrow in field.arrows]).reshape(_SHAPE)


def _draw_ratio_lines(panel: "Axes", field: Field, centres: NDArray[np.floating]) -> None:
    """Where the noise-batch ratio is a whole power of two; the arrows point across them."""
    log_ratio = np.log2(_grid(field, lambda arrow: arrow.noise_batch_ratio))
    if not np.isfinite(log_ratio).any():
        return
    low, high = np.ceil(np.nanmin(log_ratio)), np.floor(np.nanmax(log_ratio))
    if low > high:
        return
    lines = panel.contour(
        centres,
        centres,
        np.ma.masked_invalid(log_ratio),
        levels=np.arange(low, high + 1),
        colors="0.45",
        linewidths=0.7,
        linestyles="dashed",
    )
    panel.clabel(lines, fmt=lambda level: f"$2^{{{level:.0f}}}$", fontsize=7)


def _label_axes(panel: "Axes", field: Field) -> None:
    corner = field.arrows[0].setting
    places = np.arange(0, FIELD_WIDTH)
    for budget, axis in ((field.x, panel.xaxis), (field.y, panel.yaxis)):
        values = [corner.value(budget) * 2**place for place in range(FIELD_WIDTH)]
        axis.set_ticks(places + 0.5, [_number(value) for value in values])
        axis.set_label_text(f"{_LABELS[budget]}, a doubling a step")
    base = (HALVINGS_BELOW + 0.5, HALVINGS_BELOW + 0.5)
    panel.plot(
        *base, "o", color="none", markeredgecolor="#c0392b", markersize=11, markeredgewidth=1.6
    )
    panel.annotate(
        "base",
        base,
        xytext=(-9, -10),
        textcoords="offset points",
        ha="right",
        va="center",
        color="#c0392b",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    panel.set_xlim(0, FIELD_WIDTH + 0.5)  # arrows from the last points end beyond the grid
    panel.set_ylim(0, FIELD_WIDTH + 0.5)
    panel.set_aspect("equal")


def _title(field: Field) -> str:
    base = field.base
    fixed = {
        "privacy": f"epsilon {base.epsilon:g}",
        "compute": f"expected batch {_number(base.expected_batch_size)}",
        "data": f"dataset size {_number(base.dataset_size)}",
    }
    (third,) = set(fixed) - {field.x, field.y}
    return (
        f"What doubling {field.x} or {field.y} takes off the noise-batch ratio "
        f"(dashed: the ratio)\n{fixed[third]}, delta {base.delta:g}, "
        f"{base.iterations:,} iterations"
    )


def _number(value: float) -> str:
    """A short label.

    >>> _number(12695312500), _number(64749), _number(0.25)
    ('12.7B', '64.7K', '0.25')
    """
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"
