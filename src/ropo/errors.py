"""The one exception that means: the user's input is at fault."""


class UserError(ValueError):
    """Report a mistake in the user's input: what is wrong, where, the value got, and how to mend it.

    The command line prints its message as one line on standard error and exits with status 2; as a library it is an
    ordinary `ValueError`.
    """
