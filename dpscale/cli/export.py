"""`dpscale export`: write a trained model for Hugging Face Transformers."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.paths import BucketPath
from dpscale.errors import ExitCode


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Write the newest checkpoint of a run, or an imported model, as a folder for Transformers.

    The folder holds safetensors, configs, tokenizer files and a model card with the receipt of
    a private run. It holds no key and no statistic without noise.
    """

    run: Annotated[BucketPath, tyro.conf.Positional]
    """The folder of a run, or of an imported model."""
    format: Literal["vaultgemma", "gemma2"]
    """The family: gemma2 where norms follow the blocks (post_norms), else vaultgemma."""
    out: Path
    """The folder to make."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the stored weights; bfloat16 rounds them."""
    check: bool = False
    """Load the folder with Transformers and compare logits and token ids with ours."""


def run(options: Options, output: Output) -> ExitCode:
    """Exports, and with --check compares; `FAILED_POINTS` where the comparison fails."""
    from dpscale.runtime import prepare_process

    prepare_process()  # before JAX is imported
    from dpscale.inference.trained import open_trained
    from dpscale.interop.comparison import require_transformers
    from dpscale.interop.exporting import export_model

    if options.check:
        require_transformers()
    trained = open_trained(options.run)
    exported = export_model(trained, options.out, format=options.format, dtype=options.dtype)
    output.say(
        f"{options.out}: {exported.num_params:,} parameters, "
        f"{exported.weight_bytes / 1e6:,.1f} MB as {options.dtype}"
    )
    if exported.tokenizer_note is not None:
        output.warn(
            f"no tokenizer.json, which would give other ids: {exported.tokenizer_note} What "
            "Transformers makes of tokenizer.model may differ from our ids."
        )
    result = dataclasses.asdict(exported) | {"folder": str(options.out)}
    if not options.check:
        output.result(result)
        return ExitCode.OK

    from dpscale.interop.comparison import LOGIT_TOLERANCE, compare

    found = compare(trained, options.out, has_tokenizer=exported.tokenizer_note is None)
    output.result(result | {"check": dataclasses.asdict(found)})
    output.say(
        f"largest difference of a logit: {found.max_logit_difference:.3g} "
        f"over {found.num_tokens} tokens"
    )
    is_close = options.dtype != "float32" or found.max_logit_difference <= LOGIT_TOLERANCE
    if not is_close:
        output.warn(f"logits differ by more than {LOGIT_TOLERANCE:g}.")
    if found.has_same_ids is False:
        output.warn("Transformers' tokenizer gives other ids.")
    return ExitCode.OK if is_close and found.has_same_ids is not False else ExitCode.FAILED_POINTS
