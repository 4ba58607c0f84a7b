"""The errors that a person caused and a person can mend, and the exit codes of the command line.

Everything that is somebody's input (an option, a file, a value) fails with an
`InputError` that names the place, the value and the way out, in one line. Any other
exception is a bug of ours and keeps its traceback.
"""

import enum
import errno


class ExitCode(enum.IntEnum):
    """What the process tells its caller.

    After `INTERRUPTED` the same command goes on where it stopped, sooner or later: a request to
    stop, a full disk, a folder that another process works in.
    """

    OK = 0
    FAILED_POINTS = 1
    USAGE = 2
    INTERRUPTED = 75


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a full quota, and a file larger than the process may write: `OSError.errno`."""


class DpscaleError(Exception):
    """A failure that is explained in one line and carries its exit code."""

    exit_code: ExitCode = ExitCode.USAGE


class InputError(DpscaleError, ValueError):
    """Wrong option, file or value.

    Args:
      where: The place: `--eps`, `config.toml: optimizer.learning_rate`, `text.jsonl:17`.
      message: The value found, what was expected and what to do, in one line.
    """

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where
        self.message = message

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str]]:
        # Worker processes send errors by pickle, which would call with the joined text alone.
        return type(self), (self.where, self.message)


class PrivacyRefusal(InputError):
    """A private run that must not start or go on, because its guarantee would not hold."""


class FolderBusy(InputError):
    """A folder that another process works in; the same command goes on once that has left."""

    exit_code = ExitCode.INTERRUPTED


class RunInterrupted(DpscaleError):
    """Stopped on request with its state saved; the same command continues it."""

    exit_code = ExitCode.INTERRUPTED
