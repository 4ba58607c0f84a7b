"""`dpscale prepare`: text files to privacy units of tokens, ready for training."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.progress import Progress, TaskID

from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.paths import BucketPath
from dpscale.errors import ExitCode, InputError
from dpscale.runtime import available_cores

if TYPE_CHECKING:
    from dpscale.data.manifest import Manifest

MAX_DEFAULT_WORKERS = 16
"""More processes than this wait for the one that reads; each takes about 100 MB."""


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Turn text files into privacy units of tokens, ready for dpscale train.

    Documents are tokenized, joined with an end-of-text token between them, and cut into units
    of S+1 tokens. One unit is one record: epsilon protects one unit. Some of the documents are
    held out before that, chosen by a hash of their text, so that the same text is always on the
    same side. An evaluation loss is published without noise: held-out documents are not protected.

    Inputs are .txt files (each is one document), .jsonl files (one JSON object a line) and
    Parquet files; .txt and .jsonl also compressed as .gz, .xz or .zst. Files that ship with the
    package can be named too: embedded:sotu (the State of the Union speeches), embedded:moby-1024
    and embedded:moby-2048 (tokenizers trained on Moby Dick).

    While the folder is being made, its work stands beside it in a folder with .partial after the
    name; an interrupted call continues there when it is given again.

    Example: dpscale prepare --input embedded:sotu --tokenizer embedded:moby-1024 --seq-len 64 --out
    data
    """

    input: tuple[str, ...]
    """Text files, in order."""
    tokenizer: str
    """A sentencepiece model; one trained on the protected text leaks about it outside epsilon."""
    seq_len: int
    """S, the tokens that a model predicts in one unit; a unit holds S+1."""
    out: BucketPath
    """The folder to make, local or on gs://."""
    text_field: str = "text"
    """Field of a .jsonl line, or column of a Parquet file, that holds the text."""
    eval_fraction: float = 0.05
    """Share of the documents to hold out, in [0, 1)."""
    keep_duplicates: bool = False
    """Keep units that equal an earlier one; training units that equal a held-out one still go."""
    privacy_unit: Literal["sequence", "document"] = "sequence"
    """What one record is; document is refused, as packed units cannot give it."""
    workers: int | None = None
    """Processes that tokenize, by default one for each core up to 16; they change no result."""


def run(options: Options, output: Output) -> ExitCode:
    """Prepares, and tells what came out."""
    from dpscale.data.assets import resolve
    from dpscale.data.prepare import prepare
    from dpscale.data.request import PrepareRequest

    request = PrepareRequest(
        inputs=tuple(resolve(name) for name in options.input),
        tokenizer=resolve(options.tokenizer),
        seq_len=options.seq_len,
        text_field=options.text_field,
        eval_fraction=options.eval_fraction,
        keep_duplicates=options.keep_duplicates,
        privacy_unit=options.privacy_unit,
    )
    workers = _default_workers() if options.workers is None else options.workers
    if workers < 1:
        raise InputError("--workers", f"expected at least 1, found {workers}.")
    with Progress(console=output.progress_console) as progress:
        stages: dict[str, TaskID] = {}

        def show(stage: str, share: float) -> None:
            if stage not in stages:
                stages[stage] = progress.add_task(stage, total=1.0)
            progress.update(stages[stage], completed=share)

        manifest = prepare(request, options.out, workers=workers, on_progress=show)
    _tell(manifest, options.out, output)
    return ExitCode.OK


def _default_workers() -> int:
    return min(len(available_cores()), MAX_DEFAULT_WORKERS)


def _tell(manifest: "Manifest", out: Path, output: Output) -> None:
    made = manifest
    output.say(
        f"{out}: {made.dataset_size:,} training units and {made.num_eval_units:,} held-out units "
        f"of {made.seq_len}+1 tokens (vocabulary {made.vocab_size:,}; unit: {made.privacy_unit})"
    )
    output.say(
        f"from {made.num_documents:,} training documents ({made.num_tokens:,} tokens) and "
        f"{made.num_eval_documents:,} held-out documents ({made.num_eval_tokens:,} tokens)"
    )
    output.say(
        f"dropped units: {made.num_duplicate_units:,} repeated, "
        f"{made.num_duplicate_eval_units:,} repeated among the held-out, "
        f"{made.num_overlapping_units:,} that equal a held-out one"
    )
    output.say(
        f"unigram entropy of the training units: {made.unigram_entropy:.4f} nats per token "
        "(computed without noise: not private)"
    )
    if made.eval_fraction > 0 and not made.num_eval_units:
        output.warn("no held-out unit: too few documents for --eval-fraction; no evaluation loss.")
    file_lists = ("train_shards", "eval_shards", "inputs")
    numbers = {key: value for key, value in made.to_dict().items() if key not in file_lists}
    output.result({"path": str(out), **numbers})
