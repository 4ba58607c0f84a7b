"""`dpscale VERB ...`: finds the verb's module, parses its options, runs it.

Only the module of the verb that was typed is imported, and a mistake in its options, files
or values becomes one line on stderr, `dpscale VERB: --option: what is wrong`.
"""

import contextlib
import dataclasses
import importlib
import io
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import tyro

from dpscale.buckets.objects import trouble
from dpscale.cli.output import Output
from dpscale.cli.paths import PathRefused, path_rules, refusal
from dpscale.cli.verbs import VERBS
from dpscale.errors import NO_SPACE, DpscaleError, ExitCode, InputError
from dpscale.runtime import use_one_blas_thread


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code of the process."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return ExitCode.OK if arguments else ExitCode.USAGE
    name = arguments[0]
    if name not in VERBS:
        print(f"dpscale: {name}: unknown verb; known: {', '.join(VERBS)}.", file=sys.stderr)
        return ExitCode.USAGE
    use_one_blas_thread()
    module = importlib.import_module(VERBS[name].module)
    try:
        options = parse(module, name, arguments[1:])
        return int(module.run(options, Output(json=options.json)))
    except DpscaleError as error:
        print(f"dpscale {name}: {_one_line(_as_typed(error, module))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"dpscale {name}: interrupted; run the same command again.", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: not our error
        return ExitCode.OK
    except Exception as error:
        if (reason := trouble(error)) is not None:
            print(
                f"dpscale {name}: the bucket cannot be reached ({reason}); mend that, and run the "
                "same command again to go on.",
                file=sys.stderr,
            )
            return ExitCode.INTERRUPTED
        if not isinstance(error, OSError):
            raise
        if error.errno not in NO_SPACE:
            raise
        print(f"dpscale {name}: {_about_space(error)}", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _about_space(error: OSError) -> str:
    """A full disk is nobody's bug, and nothing written before it is lost."""
    place = f"{error.filename}: " if error.filename else ""
    reason = (error.strerror or "no space left").lower()
    return f"{place}{reason}; make room, and run the same command again to go on."


def parse(module: ModuleType, name: str, arguments: Sequence[str]) -> Any:
    """The verb's `Options` from its command line; tyro's boxed errors become one line.

    Raises:
      InputError: An unknown option, a missing one, or a value that cannot be read.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            options, unknown = tyro.cli(
                module.Options,
                prog=f"dpscale {name}",
                args=arguments,
                return_unknown_args=True,
                registry=path_rules(),
            )
    except PathRefused as error:
        raise refusal(error, module.Options, arguments) from None
    except SystemExit as leaving:
        if leaving.code in (0, None):
            raise
        raise _input_error(printed.getvalue(), name, arguments) from None
    if unknown:
        raise InputError(unknown[0], f"unknown option; see `dpscale {name} --help`.")
    return options


_MISTAKES = (
    # tyro's sentence, and ours: each captures the option's names, then what our words need.
    (r"Missing value for argument '(?P<place>\S+)'", "needs a value."),
    (
        r"invalid choice (?P<found>.+?) for argument '(?P<place>\S+)'\. "
        r"Expected one of \((?P<known>.*?),?\)\.",
        "expected one of {known}, found {found}.",
    ),
    (
        r"Error parsing (?P<place>\S+?): no type matching (?:\{None\} )?(?P<known>.+?) "
        r"could be instantiated from \[(?P<found>.*?)\]",
        "expected {known}, found {found}.",
    ),
    (
        r"Error parsing (?P<place>\S+?): (?P<why>.*?)\.?"
        r"(?: Argument helptext| For full helptext|$)",
        "{why}.",
    ),
)


def _input_error(box: str, name: str, arguments: Sequence[str]) -> InputError:
    """tyro's explanation of a mistake, reduced to its place and its reason."""
    text = _one_line(re.sub(r"[│╭╮╰╯─╷╵|]+|-{4,}", " ", box))
    for pattern, words in _MISTAKES:
        if found := re.search(pattern, text):
            names = found["place"].split("/")  # of one option; its user knows the one typed
            typed = [argument.partition("=")[0] for argument in arguments]
            place = next((name for name in names if name in typed), names[0])
            return InputError(place, words.format(**found.groupdict()))
    missing = re.findall(r"(--[\w-]+|\b[A-Z_-]+\b)[^()]*\(required\)", text)
    if missing:
        return InputError(missing[0], f"required; see `dpscale {name} --help`.")
    return InputError("options", text)


def _as_typed(error: DpscaleError, module: ModuleType) -> str:
    """The error, with the library's name for a value turned into the option that gave it."""
    options = {field.name for field in dataclasses.fields(module.Options)}
    if isinstance(error, InputError):
        name = "eps" if error.where == "epsilon" else error.where
        if name in options:
            return f"--{name.replace('_', '-')}: {error.message}"
    return str(error)


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: dpscale VERB [options]",
            "",
            "Pretrain language models with differential privacy: train, sweep, fit, recommend.",
            "",
            *lines,
            "",
            "dpscale VERB --help tells a verb's options.",
        ]
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
