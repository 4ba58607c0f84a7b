"""How long a sweep would take on one device of some kinds: an estimate from its FLOPs alone."""

from dataclasses import dataclass

CPU_CORE_FLOPS_PER_SECOND = 3e10
"""About what one CPU core does of a small model's training FLOPs, clipping included."""

SHARE_OF_PEAK = 0.3
"""What is assumed to be reached of an accelerator's peak; a model of few million parameters, or
a small batch, reaches far less. Not measured."""


@dataclass(frozen=True)
class DeviceKind:
    """A device, and the training FLOPs it is assumed to do a second."""

    name: str
    flops_per_second: float


_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
}
"""FLOPs a second in bfloat16, dense, of one chip, as its maker gives them."""

DEVICE_KINDS = (
    DeviceKind("CPU core", CPU_CORE_FLOPS_PER_SECOND),
    *(DeviceKind(name, SHARE_OF_PEAK * peak) for name, peak in _PEAKS.items()),
)


def device_hours(flops: float) -> dict[str, float]:
    """Hours of one device of each kind, by its name.

    >>> round(device_hours(1e21)["NVIDIA H100"])
    936
    """
    return {kind.name: flops / kind.flops_per_second / 3600 for kind in DEVICE_KINDS}
