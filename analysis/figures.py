"""Draws the figures of a fit again: `python analysis/figures.py RUNS law.json FOLDER`.

RUNS is what `dpscale fit` was given: a sweep's folder, a folder of runs or a results table.
"""

import sys

from dpscale.scaling.figures import draw_figures
from dpscale.scaling.lawfile import load_law
from dpscale.scaling.runs import read_runs
from dpscale.scaling.smoothing import smooth


def main(source: str, law_path: str, folder: str) -> None:
    """Reads the runs and the law, and writes the figures into `folder`."""
    law = load_law(law_path)
    runs = read_runs(source, target=law.target)
    for path in draw_figures(law, smooth(runs.runs), folder):
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
