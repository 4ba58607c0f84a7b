"""What a device holds of the compiled step, by mesh.

    python analysis/mesh_memory.py --shape w256 --devices 8

Devices are forced on the CPU; nothing is run, the compiler's own count is read. Beside the bytes
stands how often devices exchange something in one pass through the program.
"""

import argparse
import os
import re

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def measure(shape: str, mesh: tuple[int, int, int], strategy: str) -> str:
    """One line of the table."""
    import jax
    import jax.numpy as jnp

    from dpscale.config import ClippingConfig, LawFittingConfig, MeshConfig, OptimizerConfig
    from dpscale.privacy.mechanism import law_fitting_noisy_mean
    from dpscale.sizes import named_shape
    from dpscale.training.optimizer import make_schedule
    from dpscale.training.placement import Placement
    from dpscale.training.step import StepSettings, make_train_step, state_shapes

    model = named_shape(shape, vocab_size=1024, seq_len=16)
    optimizer = OptimizerConfig(learning_rate=0.1)
    slots = jax.device_count() * 2
    clipping = ClippingConfig(
        microbatch_size=jax.device_count(), strategy=strategy, norm_rule="gram"
    )
    step = make_train_step(model, optimizer, clipping, Placement.of(MeshConfig(*mesh), model))
    settings = jax.eval_shape(
        lambda: StepSettings(
            law_fitting_noisy_mean(clipping, LawFittingConfig(slots, 0.1)),
            make_schedule(optimizer, iterations=10),
            jax.random.key(0),
        )
    )
    compiled = step.lower(
        state_shapes(model, optimizer),
        jax.ShapeDtypeStruct((slots, model.seq_len + 1), jnp.int32),
        jax.ShapeDtypeStruct((slots,), bool),
        settings,
    ).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    counts = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}
    held, temporary = memory.argument_size_in_bytes / 1e6, memory.temp_size_in_bytes / 1e6
    exchanges = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return (
        f"{strategy:<12} {mesh!s:<10} state and batch {held:6.1f} MB, "
        f"temporary {temporary:6.1f} MB; {exchanges}"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="w256")
    parser.add_argument("--devices", type=int, default=8)
    options = parser.parse_args()
    count = options.devices
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
    for strategy in ("ghost", "bookkeeping"):
        for mesh in ((count, 1, 1), (1, count, 1), (1, 1, count), (count // 4, 2, 2)):
            print(measure(options.shape, mesh, strategy), flush=True)


if __name__ == "__main__":
    main()
