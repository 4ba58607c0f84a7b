"""What the figures of laws have in common: one style, and looks that read in grey.

Things are told apart by shade and marker, never by hue. A line is solid where its law has seen
the like and dashed where it extrapolates.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dpscale.files import write_bytes_atomically
from dpscale.scaling.forms import Array
from dpscale.scaling.law.law import ScalingLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_LIGHTEST: Final = 0.68
_STYLE: Final[dict[Any, Any]] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 9,
    "axes.axisbelow": True,
    "figure.titlesize": 10,
    "grid.color": "0.9",
    "font.size": 9,
    "legend.frameon": False,
    "figure.dpi": 130,
}
DASHES: Final = (0, (3, 2))


def style() -> AbstractContextManager[Any]:
    """The setting in which figures of laws are made and saved."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def write_figures(
    drawings: Mapping[str, "Callable[[], Figure]"], directory: str | Path
) -> list[Path]:
    """Makes each figure and writes it into `directory` as NAME.png; returns the paths."""
    paths = []
    with style():
        for name, draw in drawings.items():
            content = io.BytesIO()
            draw().savefig(content, format="png")
            paths.append(Path(directory) / f"{name}.png")
            write_bytes_atomically(paths[-1], content.getvalue())
    return paths


def panels(
    rows: int, columns: int, *, width: float, height: float, **shared: Any
) -> "tuple[Figure, NDArray[Any]]":
    """A figure of `rows` times `columns` panels, each `width` by `height` inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def look(place: int, count: int) -> tuple[str, str]:
    """Shade and marker of the thing at `place` among `count`; the last one is black."""
    shade = _LIGHTEST * (1 - place / max(1, count - 1)) if count > 1 else 0.0
    return f"{shade:.2f}", _MARKERS[place % len(_MARKERS)]


def legend(
    figure: "Figure", title: str, labels: Sequence[str], more: "Sequence[Line2D]" = ()
) -> None:
    """The looks of `labels`, smallest first, to the right of the panels, and `more` below."""
    from matplotlib.lines import Line2D

    looks = [look(place, len(labels)) for place in range(len(labels))]
    handles = [
        Line2D([], [], color=shade, marker=marker, markersize=4, label=label)
        for label, (shade, marker) in zip(labels, looks, strict=True)
    ]
    figure.legend(handles=[*handles, *more], title=title, loc="outside right center")


def draw_line(
    panel: "Axes", x: Array, y: Array, outside: NDArray[np.bool_], *, shade: str, width: float = 1.2
) -> None:
    """A line that is solid inside the law's range and dashed outside it.

    Args:
      outside: bool[points]; whether the law extrapolates there.
    """
    panel.plot(x, y, linestyle=DASHES, color=shade, linewidth=width)
    panel.plot(x, np.where(outside, np.nan, y), "-", color=shade, linewidth=width)


def extrapolated() -> "Line2D":
    """The legend's entry for what is dashed."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color="0.3", linestyle=DASHES, label="outside the\nlaw's range")


def few_ticks(panel: "Axes", values: Sequence[float]) -> None:
    """At most four ticks on a logarithmic x axis, at values that occur."""
    from matplotlib.ticker import NullLocator

    places = np.unique(np.linspace(0, len(values) - 1, min(4, len(values))).round().astype(int))
    ticks = [values[place] for place in places]
    panel.set_xticks(ticks, [number_text(tick) for tick in ticks])
    panel.xaxis.set_minor_locator(NullLocator())


def count_axis(axis: "Axis") -> None:
    """Short labels on a logarithmic axis of counts, as many as have room.

    To be called when its limits are known.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
    axis.set_minor_formatter(NullFormatter())


def number_text(value: float) -> str:
    """A short label.

    >>> number_text(24720), number_text(400), number_text(2**-8)
    ('25K', '400', '$2^{-8}$')
    """
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:.3g}{name}" if value < 10 * unit else f"{value / unit:.0f}{name}"
    return f"{value:.0f}" if value >= 1 else ratio_text(value)


def ratio_text(ratio: float) -> str:
    """A noise-batch ratio, as a power of two where it is one.

    >>> ratio_text(2**-8), ratio_text(0.003), ratio_text(0)
    ('$2^{-8}$', '0.003', '0')
    """
    if ratio == 0:
        return "0"
    exponent = np.log2(ratio)
    whole = abs(exponent - round(exponent)) < 1e-9
    return f"$2^{{{round(exponent)}}}$" if whole else f"{ratio:.2g}"


def scientific_text(value: float) -> str:
    """A large number for a legend or a title.

    >>> scientific_text(1e21), scientific_text(2.54e18)
    ('$10^{21}$', '$2.5 \\\\times 10^{18}$')
    """
    mantissa, exponent = f"{value:.1e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if mantissa == "1.0" else f"${mantissa} \\times {power}$"


def loss_label(law: ScalingLaw) -> str:
    """Which loss, and its unit."""
    return f"{law.target.replace('_', ' ')} (nats per token)"
