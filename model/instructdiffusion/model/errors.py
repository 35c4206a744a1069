"""What can go wrong, as one tree.

    InstructDiffusionError
    ├── ConfigError      a setting or an argument is wrong: change it
    ├── DataError        a file or a sample is wrong: it is named
    ├── ModelError       a model's weights are broken: it is no use until it is trained again
    ├── ServiceError     a server did not answer as it should: worth a retry
    └── Interrupted      told to stop, and stopped in order: the same command goes on

A message is one line that names the input and the fix.
"""

from __future__ import annotations

import os
import re
import shutil
from errno import EDQUOT, ENOSPC


class InstructDiffusionError(Exception):
    """Root of every error the project raises on purpose; `exit_code` is the command's."""

    exit_code = 1


class ConfigError(InstructDiffusionError):
    """A setting or an argument is wrong."""

    exit_code = 2


class DataError(InstructDiffusionError):
    """A file, a shard or a sample is wrong; the message names it."""

    exit_code = 3


class ModelError(InstructDiffusionError):
    """A model makes no pictures, for its weights are broken."""

    exit_code = 3


def from_system(error: OSError) -> DataError:
    """What the system refused, a full disk for instance, as a line of ours."""
    error = first_of(error)
    full = error.errno in (ENOSPC, EDQUOT)
    fix = "free some space and run the same command again" if full else "check the path and its permissions"
    return DataError(f"{error.filename or 'a file'}: {error.strerror or error}; {fix}")


def first_of(error: OSError) -> OSError:
    """The first of the errors that shutil collects while it copies a folder; any other error as it is."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        _, target, reason = error.args[0][0]
        if found := re.match(r"\[Errno (\d+)\]", str(reason)):
            return OSError(int(found[1]), os.strerror(int(found[1])), target)
    return error


class Interrupted(InstructDiffusionError):
    """Told to stop (SIGTERM), and stopped in order; what was done is kept."""

    exit_code = 143  # 128 + SIGTERM, as a shell and Kubernetes tell it


class ServiceError(InstructDiffusionError):
    """A service is down or answered unexpectedly; the same call may work later."""

    exit_code = 4
