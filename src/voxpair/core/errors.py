"""Errors that a user can act on. Anything else that escapes is a bug of ours and keeps its traceback.

Every message says what was got, what was expected and what to do, and names the file, case or setting.
"""


class VoxpairError(Exception):
    """Base of every error shown to a user as one sentence, without a traceback."""

    exit_code = 1


class InputError(VoxpairError):
    """Wrong arguments, settings or data: found before any work was done."""

    exit_code = 2


class RunError(VoxpairError):
    """The work itself could not go on: a non-finite loss, a full disk, a poor autoencoder."""

    exit_code = 1
