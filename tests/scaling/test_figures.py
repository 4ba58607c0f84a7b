"""Every figure is drawn, also from a sweep with holes."""

from collections.abc import Callable
from pathlib import Path

from dpscale.scaling.figures import draw_figures
from dpscale.scaling.fit import fit_law
from dpscale.scaling.runs import select_runs
from dpscale.scaling.smoothing import smooth


def test_all_figures_are_png_files(sweep: Callable, tmp_path: Path) -> None:
    rows = sweep(widths=(16, 24, 32), failed=12, diverged=2, rates=(2.0**-5,)).rows()
    runs = select_runs(rows, target="train_loss", source="x")
    law = fit_law(runs, num_replicates=2)
    paths = draw_figures(law, smooth(runs.runs), tmp_path / "figures")
    assert sorted(path.stem for path in paths) == [
        "held_out",
        "loss_by_iterations",
        "loss_by_noise",
        "residuals",
    ]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
