"""What torchrun starts: `python -m instructdiffusion.model.train_main --run FILE --data DIR --model DIR --out DIR`."""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.model.config import parse
from instructdiffusion.model.errors import InstructDiffusionError, from_system
from instructdiffusion.model.report import Lines, Silent
from instructdiffusion.model.startup import ADAPTERS, UNUSED, collect_seldom, hidden

if TYPE_CHECKING:
    from instructdiffusion.model.data.away import Shards

PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None, reach: Callable[[str], Path | Shards] = Path) -> int:
    """Train as told; an error is one line on the standard error and the error's exit code.

    Args:
        arguments: of the command; None: those of this process.
        reach: what an address of data is to be read by, for whoever reads other places than folders.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="settings of the run, JSON")
    parser.add_argument("--data", required=True, help="folder of latents or of shards")
    parser.add_argument("--model", type=Path, default=None, help="model to start from; left out: the embedded base")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the trained model")
    given = parser.parse_args(arguments)
    collect_seldom()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("instructdiffusion").setLevel(logging.INFO)
    _end_with_parent()
    first = os.environ.get("RANK", "0") == "0"
    try:
        run, data = parse(json.loads(given.run.read_text())), reach(given.data)
        with hidden(*UNUSED, *(() if run.lora.rank else ADAPTERS)):
            from instructdiffusion.model.train import train

        train(run, data, given.model, given.out, Lines() if first else Silent())
        if not isinstance(data, Path):
            data.close()
    except (InstructDiffusionError, OSError) as caught:
        error = from_system(caught) if isinstance(caught, OSError) else caught
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _end_with_parent() -> None:
    """Ask Linux to kill this process when torchrun is gone, or it would write beside those that take its place."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if not _started_us(os.getppid()):  # it went before we could ask
            sys.exit("error: torchrun was gone before this process began; the same command goes on")


def _started_us(parent: int) -> bool:
    """Whether a process's arguments end in ours, as torchrun's do; those of whoever takes in orphans don't."""
    try:
        words = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return False
    ours = [os.fsencode(word) for word in sys.argv[1:]]
    return words[-len(ours) :] == ours


if __name__ == "__main__":
    sys.exit(main())
