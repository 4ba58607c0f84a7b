"""The frame of the command line: one-line errors, exit codes, help."""

import errno
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
import tyro

from dpscale.cli.choices import AskedForm
from dpscale.cli.main import main
from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.verbs import VERBS, Verb
from dpscale.errors import InputError, PrivacyRefusal, RunInterrupted
from dpscale.scaling.forms import FORMS
from dpscale.scaling.law.scores import FORM_NAMES


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """A verb for tests.

    A second paragraph.
    """

    epsilon: Annotated[float, tyro.conf.arg(aliases=["--eps"])]
    """The budget."""
    count: int | None = None
    kind: Literal["a", "b"] = "a"


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A verb `probe`, whose `run` a test sets."""
    module = types.ModuleType("probe_verb")
    module.Options = Options  # type: ignore[attr-defined]
    module.run = lambda options, output: 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "probe_verb", module)
    monkeypatch.setitem(VERBS, "probe", Verb("probe_verb", "a verb for tests"))
    return module


def raising(error: BaseException) -> Any:
    def run(options: Options, output: Output) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epsilon", "abc"], "--epsilon: could not convert string to float: 'abc'."),
        (["--eps", "abc"], "--eps: could not convert string to float: 'abc'."),
        (["--epsilon", "2", "--count", "1.5"], "--count: expected INT, found '1.5'."),
        (["--epsilon", "2", "--kind", "c"], "--kind: expected one of 'a', 'b', found 'c'."),
        (["--epsilon", "2", "--kind"], "--kind: needs a value."),
        (["--epsilon"], "--epsilon: needs a value."),
        ([], "--eps: required; see `dpscale probe --help`."),
        (["--epsilon", "2", "--unknown", "3"], "--unknown: unknown option; see `dpscale probe"),
        (["--epsilon", "2", "stray"], "stray: unknown option; see `dpscale probe --help`."),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(
    verb: types.ModuleType,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["probe", *arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"dpscale probe: {message}")
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("--epsilon", "expected above 0,\nfound -1."), 2),
        (PrivacyRefusal("private", "the noise does not meet the target."), 2),
        (RunInterrupted("stopped at step 3."), 75),
        (KeyboardInterrupt(), 75),
    ],
)
def test_failures_with_a_reason_are_one_line_and_an_exit_code(
    verb: types.ModuleType,
    error: BaseException,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb.run = raising(error)  # type: ignore[attr-defined]
    assert main(["probe", "--epsilon", "2"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dpscale probe: ")


def test_a_bug_of_ours_keeps_its_traceback(verb: types.ModuleType) -> None:
    verb.run = raising(ZeroDivisionError())  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        main(["probe", "--epsilon", "2"])


def test_options_reach_the_verb(verb: types.ModuleType) -> None:
    seen: list[Options] = []
    verb.run = lambda options, output: seen.append(options) or 1  # type: ignore[attr-defined]
    assert main(["probe", "--epsilon", "2", "--json"]) == 1
    assert seen == [Options(epsilon=2.0, json=True)]


def test_an_unknown_verb_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frobnicate"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dpscale: frobnicate: unknown verb")
    assert "recommend" in line


def test_without_a_verb_the_overview_is_shown_as_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == shown
    assert all(f"  {name} " in shown for name in VERBS)


def test_help_of_a_verb_reads_like_documentation(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["probe", "--help"])
    assert leaving.value.code in (0, None)
    out = capsys.readouterr().out
    assert "A verb for tests." in out
    assert "The budget." in out


def test_a_reader_that_leaves_early_is_not_an_error(tmp_path: Path) -> None:
    # `dpscale VERB | head -1` must not end in a traceback.
    code = (
        "import sys, types\n"
        "from dataclasses import dataclass\n"
        "from dpscale.cli import main, verbs\n"
        "from dpscale.cli.output import CommonOptions\n"
        "module = types.ModuleType('probe')\n"
        "module.Options = CommonOptions\n"
        "def run(options, output):\n"
        "    for _ in range(100000): output.say('word ' * 20)\n"
        "    return 0\n"
        "module.run = run\n"
        "sys.modules['probe'] = module\n"
        "verbs.VERBS['probe'] = verbs.Verb('probe', '')\n"
        "sys.exit(main.main(['probe']))\n"
    )
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=file
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=60)
    assert errors.read_text() == ""


def test_json_is_the_only_thing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json=True)
    output.say("for people")
    output.table(("a",), [("b",)])
    output.warn("careful")
    output.result({"loss": float("nan"), "steps": 3})
    captured = capsys.readouterr()
    assert captured.out == '{"loss": null, "steps": 3}\n'
    assert captured.err == "warning: careful\n"


def test_text_output_prints_no_json_and_no_markup_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(json=False)
    output.say("[bold]left as it is[/bold]")
    output.result({"a": 1})
    assert capsys.readouterr().out == "[bold]left as it is[/bold]\n"


def test_every_form_that_describes_noise_can_be_asked_for() -> None:
    noise_free = {name for name, form in FORMS.items() if form.noise_free}
    assert set(get_args(AskedForm)) == set(FORM_NAMES) - noise_free


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_and_exit_code_75(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    verb.run = raising(OSError(number, "No space left on device", "runs/a/result.json"))  # type: ignore[attr-defined]
    assert main(["probe", "--eps", "2"]) == 75
    assert capsys.readouterr().err == (
        "dpscale probe: runs/a/result.json: no space left on device; make room, and run the same "
        "command again to go on.\n"
    )


def test_any_other_error_of_the_system_keeps_its_traceback(verb: types.ModuleType) -> None:
    verb.run = raising(OSError(errno.EIO, "Input/output error"))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="Input/output"):
        main(["probe", "--eps", "2"])
