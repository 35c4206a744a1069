"""The commands of docs/promoting.md, run as they stand there."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from markdown_it import MarkdownIt

PAGE = Path(__file__).parents[2] / "docs" / "promoting.md"
PROMOTE, ROLLBACK = "instructdiffusion promote 2", "instructdiffusion rollback"
SIGNED = 'instructdiffusion promote 2 --override "the fair is tomorrow" --by Ada'
COMPARE = "instructdiffusion compare 1 2"
ONCE, WATCH, STOP = (f"instructdiffusion reconcile --{what}" for what in ("once", "watch", "stop"))
WEBHOOK = f"{WATCH} --every 600 --webhook-port 8800 --webhook-url http://127.0.0.1:8800/"
CLUSTER = f"{ONCE} --name edits --canary 10 --hold 30"


def blocks(language: str) -> list[str]:
    """The page's blocks of a language."""
    tokens = MarkdownIt("commonmark").parse(PAGE.read_text())
    return [token.content.strip() for token in tokens if token.type == "fence" and token.info == language]


def arguments(line: str) -> list[str]:
    """A line of the page as a command of this interpreter."""
    return [sys.executable, "-m", "instructdiffusion.pipelines", *shlex.split(line)[1:]]


def run(line: str, folder: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line of the page to its end."""
    environment = {**os.environ, **variables}
    return subprocess.run(arguments(line), cwd=folder, env=environment, capture_output=True, text=True, check=False)


def started(line: str, folder: Path, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a line of the page."""
    environment = {**os.environ, **variables}
    return subprocess.Popen(
        arguments(line), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
