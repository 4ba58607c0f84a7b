"""Peak host memory of `dpscale export`, against the size of the weights.

    python analysis/export_memory.py --shape vaultgemma-1b --dtype float32

Random parameters of a named shape are saved as a checkpoint in a temporary folder, in a process
of their own; then the command is run in another, and the kernel's count of its largest resident
set is divided by the size of the float32 parameters. Needs disk for two or three copies of them.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from dpscale.data.assets import resolve
from dpscale.sizes import named_shape


def save_random_model(folder: Path, shape: str) -> None:
    """Writes an imported model's folder with random parameters."""
    import jax
    import numpy as np

    from dpscale.model.decoder import params_shapes
    from dpscale.training.checkpoint import Checkpoints

    model = named_shape(shape)
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda like: generator.standard_normal(like.shape, np.float32), params_shapes(model)
    )
    record = {"model": dataclasses.asdict(model), "source": {}, "bos_id": None}
    (folder / "imported.json").write_text(json.dumps(record))
    shutil.copy(resolve("embedded:moby-1024"), folder / "tokenizer.model")
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save_params(params)
    checkpoints.close()


def peak_bytes(command: list[str]) -> int:
    """Runs a command; returns the peak of its resident memory."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed with status {status}")
    return usage.ru_maxrss * 1024  # Linux counts in KiB


def main() -> None:
    """Measures and prints one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="vaultgemma-1b")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--dir", default=None, help="where the temporary folder is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as temporary:
        run, out = Path(temporary) / "run", Path(temporary) / "out"
        run.mkdir()
        saving = get_context("spawn").Process(target=save_random_model, args=(run, options.shape))
        saving.start()
        saving.join()
        model = named_shape(options.shape)
        family = "gemma2" if model.post_norms else "vaultgemma"
        command = [sys.executable, "-m", "dpscale.cli.main", "export", str(run), "--json"]
        command += ["--format", family, "--dtype", options.dtype, "--out", str(out)]
        start = time.monotonic()
        peak = peak_bytes(command)
        seconds = time.monotonic() - start
        written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    weights = written * (2 if options.dtype == "bfloat16" else 1)
    print(
        f"{options.shape} as {options.dtype}: float32 weights {weights / 1e9:.2f} GB, "
        f"peak {peak / 1e9:.2f} GB, {peak / weights:.2f} times, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
