"""Errors that are the user's to mend: said in one sentence, without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something outside the program is wrong: a file, a folder, a flag.

    The message names what is wrong, what was found and what is accepted.
    Commands print it as one line and end with exit status 2.
    """


class DataWarning(UserWarning):
    """Something about a data set that a user should know: what was left out, what is an estimate."""


def one_line(text: str) -> str:
    """The text without line breaks and runs of spaces."""
    return " ".join(text.split())
