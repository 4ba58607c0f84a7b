"""`dpscale predict`: the loss that a law expects at one point."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import tyro

from dpscale.cli.choices import AskedForm
from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Predict the loss of a run from its size, its iterations and its noise.

    Prints the loss, a 90 % interval for the law's own loss and one for a single new run, and
    what of the point the law has not seen.
    """

    params: Annotated[float, tyro.conf.arg(aliases=("--num-params",))]
    """M: all parameters, the tied embedding counted once, such as 5e7."""
    iterations: float
    """T: optimizer steps of the whole run."""
    noise_batch_ratio: float
    """Noise on the mean gradient, in clip norms: noise_multiplier / expected_batch_size. 0 for
    training without noise."""
    law: str = "published"
    """A law written by `dpscale fit`, or `published`, the one that ships."""
    batch_size: float | None = None
    """Examples averaged per iteration; by default those of the law's runs."""
    form: AskedForm | None = None
    """Which form of the law to ask; by default the one that `fit` chose."""


def run(options: Options, output: Output) -> ExitCode:
    """Answers for one point."""
    from dpscale.scaling.advice.predict import predict
    from dpscale.scaling.law.published import find_law

    found = predict(
        find_law(options.law),
        num_params=options.params,
        iterations=options.iterations,
        noise_batch_ratio=options.noise_batch_ratio,
        batch_size=options.batch_size,
        form=options.form,
    )
    output.say(f"predicted_loss   {found.predicted_loss:.4f} ({found.predicts}, nats per token)")
    for name, (low, high) in (("the law", found.law_interval), ("one run", found.run_interval)):
        output.say(f"90 % of {name}  {low:.4f} to {high:.4f}")
    output.say(f"law: {found.form}, {found.statement}")
    for each in found.extrapolations:
        output.say(f"outside the law: {each.message}")
    output.result(dataclasses.asdict(found))
    return ExitCode.OK
