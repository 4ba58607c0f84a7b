"""What a run writes when it leaves: a private one its receipt, and one that ended its result."""

from typing import Any

from dpscale.compute import count_params, train_flops
from dpscale.data.manifest import Manifest
from dpscale.files import write_json_atomically
from dpscale.privacy.clipping import NORM_MARGIN
from dpscale.privacy.receipt import ReceiptFacts, make_receipt
from dpscale.records import RECEIPT_FILE, RESULT_FILE, RunResult, Status
from dpscale.training import provenance
from dpscale.training.checkpoint import Counters
from dpscale.training.run_folder import StartedRun

_DIVERGED = "a parameter is not finite; the last good checkpoint is kept."


def write_ending(
    run: StartedRun,
    manifest: Manifest,
    status: Status,
    steps_taken: int,
    counters: Counters,
    last_line: dict[str, Any] | None,
) -> RunResult:
    """Writes `receipt.json` (private runs) and, unless the run was interrupted, `result.json`.

    The result is written last: where it stands, everything else does.

    Args:
      last_line: The newest metric line, None before the first.
    """
    epsilon = None
    if run.mechanism is not None:
        receipt = _receipt(run, manifest, status, steps_taken, counters)
        write_json_atomically(run.run_dir / RECEIPT_FILE, receipt)
        epsilon = receipt["epsilon"]
    result = _result(run, manifest, status, steps_taken, counters, last_line or {}, epsilon)
    if status is not Status.INTERRUPTED:
        write_json_atomically(run.run_dir / RESULT_FILE, result.to_dict())
    return result


def _receipt(
    run: StartedRun, manifest: Manifest, status: Status, steps_taken: int, counters: Counters
) -> dict[str, Any]:
    private = run.config.private
    assert run.mechanism is not None
    assert private is not None
    facts = ReceiptFacts(
        accounted=run.mechanism.after(steps_taken),
        planned_iterations=run.config.training.iterations,
        target_epsilon=private.target_epsilon,
        target_delta=private.target_delta,
        privacy_unit=manifest.privacy_unit,
        unit_origin=manifest.unit_origin,
        l2_clip_norm=run.mechanism.l2_clip_norm,
        rescale_to_unit_norm=run.mechanism.rescale_to_unit_norm,
        norm_margin=NORM_MARGIN,
        is_seed_known=private.insecure_key_seed is not None,
        num_truncated_batches=counters.num_truncated_batches,
        num_truncated_examples=counters.num_truncated_examples,
        run_id=run.run_id,
        config_hash=run.config_hash,
        data_hash=manifest.data_hash,
        tuning_not_covered=private.tuning_not_covered,
        versions=provenance.versions(),
        commit=provenance.commit(),
    )
    # Who stops a run does not wait long.
    return make_receipt(facts, with_curve=status is not Status.INTERRUPTED)


def _result(
    run: StartedRun,
    manifest: Manifest,
    status: Status,
    steps_taken: int,
    counters: Counters,
    last_line: dict[str, Any],
    epsilon: float | None,
) -> RunResult:
    config, mechanism, law_fitting = run.config, run.mechanism, run.config.law_fitting
    params = count_params(config.model)
    losses = last_line if status is Status.FINISHED else {}
    return RunResult(
        run_id=run.run_id,
        purpose=config.purpose,
        status=status,
        error=_DIVERGED if status is Status.DIVERGED else None,
        seed=config.seed,
        num_params=params.total,
        num_params_non_embedding=params.non_embedding,
        width=config.model.width,
        num_layers=config.model.num_layers,
        seq_len=config.model.seq_len,
        vocab_size=config.model.vocab_size,
        physical_batch_size=law_fitting.physical_batch_size if law_fitting else None,
        expected_batch_size=mechanism.accounted.expected_batch_size if mechanism else None,
        iterations=config.training.iterations,
        steps_taken=steps_taken,
        noise_batch_ratio=run.noise_batch_ratio,
        noise_multiplier=mechanism.accounted.noise_multiplier if mechanism else None,
        learning_rate=config.optimizer.learning_rate,
        l2_clip_norm=config.clipping.l2_clip_norm,
        train_loss=losses.get("train_loss"),
        eval_loss=losses.get("eval_loss"),
        train_flops=train_flops(
            num_params=params.total,
            batch_size=config.batch_size,
            iterations=steps_taken,
            seq_len=config.model.seq_len,
        ),
        epsilon=epsilon,
        wall_seconds=counters.wall_seconds,
        data_hash=manifest.data_hash,
        dataset_size=manifest.dataset_size,
        commit=provenance.commit(),
        device=provenance.device(),
    )
