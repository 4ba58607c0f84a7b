"""The verbs of the command line, each with the module that holds it and one line on what it does.

Kept apart from the modules themselves, so that `dpscale --help` imports none of them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A verb: its module holds a dataclass `Options` and a function `run(options, output)`."""

    module: str
    summary: str


VERBS = {
    "quickstart": Verb(
        "dpscale.cli.quickstart", "the whole job in miniature, on a text that ships"
    ),
    "prepare": Verb("dpscale.cli.prepare", "turn text files into privacy units of tokens"),
    "train": Verb("dpscale.cli.train", "train one model, privately or to fit a law"),
    "sweep": Verb("dpscale.cli.sweep", "run a grid of training runs and collect their results"),
    "status": Verb(
        "dpscale.cli.status", "show what is done, running, failed, and how long is left"
    ),
    "fit": Verb("dpscale.cli.fit", "fit scaling laws to the results of a sweep"),
    "recommend": Verb("dpscale.cli.recommend", "choose model, batch and iterations for a budget"),
    "predict": Verb("dpscale.cli.predict", "the loss that a law expects at one point"),
    "figures": Verb("dpscale.cli.figures", "draw a law: what it recommends, and its fit"),
    "account": Verb("dpscale.cli.account", "from noise to epsilon"),
    "calibrate": Verb("dpscale.cli.calibrate", "from epsilon to noise"),
    "receipt": Verb(
        "dpscale.cli.receipt", "show what a private run guarantees, and check that it adds up"
    ),
    "synergy": Verb(
        "dpscale.cli.synergy", "what doubling epsilon, batch or data does to the noise"
    ),
    "bench": Verb("dpscale.cli.bench", "measure what clipping and the private step cost here"),
    "generate": Verb("dpscale.cli.generate", "continue prompts with a trained model"),
    "eval": Verb("dpscale.cli.evaluate", "score a model: loss, tasks, memorization"),
    "export": Verb("dpscale.cli.export", "write a trained model for Hugging Face Transformers"),
    "import": Verb("dpscale.cli.import_model", "read such a folder into a checkpoint of ours"),
}
