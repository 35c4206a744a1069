"""How commands end: in one line and an exit code, whatever went wrong."""

from __future__ import annotations

import signal
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from instructdiffusion.model.errors import DataError, InstructDiffusionError, first_of, from_system
from instructdiffusion.pipelines.entry import GO_ON, INTERRUPTED


class Commands(TyperGroup):
    """Every command ends alike: an error of ours is one line and its code, anything else a line and a log."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Read the arguments: what Typer needs for that it imports here."""
        try:
            return super().make_context(*given, **more)
        except KeyboardInterrupt:
            _end(GO_ON, INTERRUPTED)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find what is asked for: of two words, as `train plan`, before the first of them alone."""
        two = " ".join(args[:2])
        if two in self.commands:
            return two, self.commands[two], args[2:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except InstructDiffusionError as error:
            _end(f"error: {error}", error.exit_code)
        except KeyboardInterrupt:
            _end(GO_ON, INTERRUPTED)
        except Exception as error:
            if type(error).__module__.startswith("typer"):
                raise  # its own ways to end: usage, exit
            if isinstance(error, OSError) and first_of(error).errno is not None:
                _end(f"error: {from_system(error)}", DataError.exit_code)
            _end(f"error: {_name(error)}; {_record()}", 1)


def stop_by_signals() -> None:
    """Let SIGTERM, and SIGHUP when the terminal is closed, end the command as Ctrl-C does: servers are stopped then."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGHUP, _hung_up)


def _hung_up(number: int, frame: Any) -> NoReturn:
    """The kernel and the shell both tell of a closed terminal: the second time must not disturb the stopping."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end(text: str, code: int) -> NoReturn:
    print(" ".join(text.split()), file=sys.stderr)
    raise typer.Exit(code) from None


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _record() -> str:
    """Write the traceback where it can be found, and say where that is, or why there is none."""
    import tempfile
    import traceback

    details = f"{' '.join(sys.argv)}\n{traceback.format_exc()}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="instructdiffusion-", suffix=".log", delete=False) as file:
            file.write(details)
    except OSError as problem:
        return f"its details could not be kept ({problem.strerror}); set TMPDIR to a folder with space and try again"
    return f"the details are in {file.name}, please report them"
