"""Commands of the project in the tests' own process: one of its own would import everything anew for each."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from typer.testing import CliRunner, Result

from instructdiffusion.pipelines.cli import app


def ran(line: str, folder: Path, **environment: str) -> Result:
    """What a line, `instructdiffusion ...`, comes to when it is typed in a folder."""
    program, *arguments = shlex.split(line)
    assert program == "instructdiffusion"
    with contextlib.chdir(folder):
        return CliRunner().invoke(app, arguments, env={**environment, "COLUMNS": "200"})
