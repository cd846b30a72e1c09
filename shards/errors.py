"""The two kinds of failure a user sees, each one line; anything else is a defect of ours."""


class EpochalError(Exception):
    """Base of what the command line reports as one line. `exit_status` is the process's exit status."""

    exit_status = 1


class RequestError(EpochalError):
    """What was asked for is wrong: a missing file, an unknown key, more tokens than there are. Exit status 2."""

    exit_status = 2


class WorkError(EpochalError):
    """A right request whose work failed: a damaged shard, a full disk, too many bad rows. Exit status 1."""

    exit_status = 1
