"""Where the command starts: what it imports, it imports under guard, so that Ctrl-C is one line from the beginning."""

from __future__ import annotations

import sys

INTERRUPTED = 130
GO_ON = "interrupted; run the same command again to go on from here"


def main() -> None:
    """Run the command."""
    try:
        from instructdiffusion.model.startup import collect_seldom
        from instructdiffusion.pipelines.cli import main as run

        collect_seldom()
        run()
    except KeyboardInterrupt:
        print(GO_ON, file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
