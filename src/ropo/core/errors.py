"""The exceptions that reach the user as one line: the input is at fault, or the run was stopped."""

__all__ = ["ProcessLostError", "RunStoppedError", "UserError"]


class UserError(ValueError):
    """Report a mistake in the user's input: what is wrong, where, the value got, and how to mend it.

    The command line prints its message as one line on standard error and exits with status 2; as a library it is an
    ordinary `ValueError`.
    """


class RunStoppedError(RuntimeError):
    """Report that a run ended early through no fault of its input: why, what is kept, and how to go on.

    The command line prints its message as one line on standard error and exits with status 1.
    """


class ProcessLostError(RunStoppedError):
    """Report that another process of the same run has died; every process that is left says so."""
