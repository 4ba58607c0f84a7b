"""What exact clipping adds to a gradient, counted from shapes: operations and bytes.

    python analysis/clipping_costs.py

Counts are per example, for `bookkeeping` with `auto` rules, on top of a non-private gradient
(forward, gradients of activations, gradients of weights; attention included). A multiply-add is
two operations. The direct rule adds memory traffic, not operations: a kept gradient is read once
for its norm and once for the sum.
"""

from dpscale.config import ModelConfig
from dpscale.ops.dense import takes_gram
from dpscale.ops.gram import gram_cost
from dpscale.sizes import NAMED_SHAPES, ladder_shape
from dpscale.training.clipping_choice import products


def shape(
    vocab_size: int, seq_len: int, width: int, layers: int, heads: int, kv: int
) -> ModelConfig:
    """A shape with a feed-forward of four widths."""
    return ModelConfig(
        vocab_size=vocab_size,
        seq_len=seq_len,
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=width // heads,
        feed_forward_width=4 * width,
    )


SHAPES = {
    "tiny": (shape(4096, 128, 128, 4, 4, 1), "cpu"),
    "small": (shape(8192, 256, 256, 6, 4, 1), "cpu"),
    "wide": (shape(8192, 64, 512, 4, 8, 2), "cpu"),
    "w768, S = 1024, V = 32,768": (ladder_shape(768, vocab_size=32_768, seq_len=1024), "gpu"),
    "vaultgemma-1b": (NAMED_SHAPES["vaultgemma-1b"], "tpu"),
}


def counts(model: ModelConfig, platform: str) -> tuple[float, float, float, int]:
    """Operations of the gradient, those that norms add, bytes that norms add, gram layers."""
    s = model.seq_len
    gradient, added, traffic, num_gram = 0.0, 0.0, 0.0, 0
    for into, out in products(model, platform):
        gradient += 3 * 2 * s * into * out
        if takes_gram("auto", s, into, out, platform):
            num_gram += 1
            added += 2 * gram_cost(s, into + out)
        else:
            traffic += 2 * 4 * into * out
    gradient += model.num_layers * 3 * 2 * 2 * s**2 * model.num_heads * model.head_dim
    added += 2 * s**2 * model.width * 2  # the embedding: repeated tokens, and the cross term
    return gradient, added, traffic, num_gram


def main() -> None:
    """Prints one line a shape."""
    print("| shape | gradient, GFLOP | added, GFLOP | share | added traffic, MB | gram layers |")
    print("|---|---|---|---|---|---|")
    for name, (model, platform) in SHAPES.items():
        gradient, added, traffic, num_gram = counts(model, platform)
        print(
            f"| {name} ({platform}) | {gradient / 1e9:.2f} | {added / 1e9:.3f} "
            f"| {added / gradient:.1%} | {traffic / 1e6:.1f} "
            f"| {num_gram} of {len(products(model, platform))} |"
        )


if __name__ == "__main__":
    main()
