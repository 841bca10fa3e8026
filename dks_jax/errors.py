"""The one exception that a user's input can raise."""


class InputError(ValueError):
    """Something the caller gave is wrong.

    The message is one sentence: the name, its value, what is accepted and the remedy. The command
    lines print it and end with status 2; any other exception is a defect of the library.
    """
