"""What single commands do: the same steps as in the pipeline, on folders, without store and tracker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from rich.console import Console

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import write_atomic
from instructdiffusion.pipelines.local import Event
from instructdiffusion.pipelines.show import Steps

if TYPE_CHECKING:
    from rich.table import Table

    from instructdiffusion.model.config import Run

HELD_OUT_SEED = 7  # of triplets that are composed for an evaluation
KEPT = 31.0  # dB of PSNR: the bar of what the autoencoder keeps of held-out photographs
Progress = Callable[..., None]


@contextmanager
def shown(console: Console, title: str) -> Iterator[Progress]:
    """Show a job by its title; what is yielded is told (done, total, text)."""
    with Steps(console) as steps:
        steps(Event(title, "started", title))

        def progress(done: int, total: int, text: str = "") -> None:
            steps(Event(title, "progress", title, done, total, text))

        yield progress


def synthesized(
    out: Path,
    split: str,
    triplets: int,
    each: bool,
    size: int,
    seed: int,
    console: Console,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Compose triplets into `out`, so many of `each` task or shared out by `weights`; returns the manifest."""
    from instructdiffusion.components.synthesize import run
    from instructdiffusion.model.synthesis.write import mixture
    from instructdiffusion.model.tasks import TASKS

    counts = dict.fromkeys(TASKS, triplets) if each else mixture(triplets, weights)
    side = cast(Literal["train", "test"], split)
    with shown(console, f"synthesize ({split})") as progress:
        return dict(run(out, split=side, counts=counts, size=size, seed=seed, progress=progress).facts)


def fit(
    run: Run, data: Path | str, model: Path | None, out: Path, processes: int | None, console: Console
) -> dict[str, Any]:
    """Encode the triplets in `data` and train on them; returns where the model is, and how fast it went.

    What is done already is used again. What is at an `s3://` address is not encoded before, but read from there while
    it is trained on.

    Args:
        processes: of each node; None: as the settings say.
    """
    from instructdiffusion.components import encode, train
    from instructdiffusion.model.addresses import S3
    from instructdiffusion.model.inputs import run_digest

    if run.train_text and model is None:
        raise DataError(
            f"recipe {run.name} makes a model from nothing; use: instructdiffusion base --recipe {run.name}"
        )
    job = run_digest(run)[:8]
    if not (isinstance(data, str) and data.startswith(S3)):
        with shown(console, "encode"):
            data = encode.run(Path(data), model, out / "latents", states=not run.train_text).path
    with shown(console, f"train ({run.name})") as progress:
        report = _Shown(progress)
        train.run(run, data, out / job, model=model, name=run.name, processes_per_node=processes, report=report)
    facts = json.loads((out / job / "training.json").read_text())
    return {
        "model": str(out / job / "model"),
        **{k: v for k, v in facts.items() if k not in ("run", "mixture", "curve")},
    }


class _Shown:
    """A training's reporter that shows how far it is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """The training keeps its curve itself."""

    def image(self, name: str, file: Path, step: int) -> None:
        """It stays where it is."""


def evaluated(model: Path | None, data: Path | None, samples: int, out: Path, console: Console) -> dict[str, Any]:
    """Score a model on `data`, or on held-out triplets composed for it; returns the evaluation."""
    from instructdiffusion.components.evaluate import run
    from instructdiffusion.model.weights import resolution

    if data is None:
        data = out / "held-out"
        synthesized(data, "test", samples, True, resolution(model), HELD_OUT_SEED, console)
    with shown(console, "evaluate") as progress:
        return dict(run(model, data, out / "scores", limit=samples, progress=progress).facts)


def edited(
    picture: Path, instruction: str, out: Path, model: Path | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Edit one picture file; returns what was read from the answer, and the same in words.

    Raises:
        DataError: the file is no picture that can be read, or the output's format is unknown.
    """
    from PIL import Image

    from instructdiffusion.model.editor import Editor
    from instructdiffusion.pipelines.answers import words
    from instructdiffusion.serving.schema import found_of, read_picture

    form = format_of(out)
    try:
        source = read_picture(picture.read_bytes(), str(picture))
    except OSError as error:
        raise DataError(f"{picture} can't be read: {error.strerror}; give a PNG, JPEG or WebP file") from error
    answer = Editor.load(model).edit(source, instruction, **options)
    write_atomic(out, encoded(Image.fromarray(answer.picture), form))
    found = found_of(answer.found)
    return {
        "task": answer.ask.task if answer.ask else None,
        "words": f"{answer.ask.task if answer.ask else 'an edit of no known task'}: {words(found)}",
        "found": found.model_dump(mode="json") if found else None,
        "picture": str(out),
        "seed": answer.seed,
        "seconds": round(answer.seconds, 3),
    }


def format_of(out: Path) -> str:
    """Pillow's name of the format that a file's ending means.

    Raises:
        DataError: there is none, or pictures can't be written in it.
    """
    from PIL import Image

    Image.init()
    form = Image.EXTENSION.get(out.suffix.lower(), "")
    try:
        encoded(Image.new("RGB", (64, 64)), form)
    except (KeyError, OSError, ValueError) as error:  # some can only be read, and some hold no colours
        raise DataError(f"{out}: a picture can't be written in a format of that ending; use .png or .jpg") from error
    return form


def encoded(picture: Any, form: str) -> bytes:
    """A Pillow picture as a file's bytes."""
    import io

    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def table(evaluation: Mapping[str, Any]) -> Table:
    """Scores with intervals beside floor and bound; green where the interval's lower end reaches the bar.

    A task without a score stands with the reason; last is what the autoencoder keeps of the true targets.
    """
    from rich.table import Table

    heads = ("task", "metric", "score", "95 % interval", "bar", "floor", "bound", "samples")
    rows = Table(*heads, box=None, header_style="dim")
    for name, s in evaluation["tasks"].items():
        rows.add_row(name, s["metric"], *_numbers(s), f"{s['floor']:.2f}", f"{s['bound']:.2f}", str(s["n"]))
        for other, m in s["also"].items():
            rows.add_row("", other, *_numbers(m), "", "", str(m["n"]))
    for name, why in evaluation.get("missing", {}).items():
        rows.add_row(name, "", "missing", why)
    value, low, high = evaluation["autoencoder"]
    rows.add_row("autoencoder", "psnr", *_numbers({"value": value, "low": low, "high": high, "bar": KEPT}))
    return rows


def _numbers(measure: Mapping[str, Any]) -> tuple[str, str, str]:
    style = "green" if measure["low"] >= measure["bar"] else "default"
    span = f"{measure['low']:.2f} to {measure['high']:.2f}"
    return f"[{style}]{measure['value']:.2f}[/]", span, f"{measure['bar']:g}"
