"""`instructdiffusion data instructions`: a bank of wordings for every task."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from instructdiffusion.model.instructions.bank import Wording
    from instructdiffusion.model.instructions.keep import Rejected

BANK, REJECTED, SAID = "instructions.jsonl", "rejected.jsonl", "said.jsonl"


def add(data: typer.Typer) -> None:
    """Add the command to the group."""
    data.command()(instructions)


def instructions(
    out: Annotated[Path, typer.Argument(help="folder for the bank and for what was rejected")],
    tasks: Annotated[list[str] | None, typer.Option("--task", help="of these tasks only; repeatable")] = None,
    count: Annotated[int, typer.Option(min=1, help="paraphrases of each instruction")] = 6,
    seed: Annotated[int, typer.Option(help="of the grammar's choices")] = 0,
    endpoint: Annotated[
        str,
        typer.Option(
            metavar="URL", envvar="OPENAI_BASE_URL", help="a language model's, up to and with /v1; left out, a grammar"
        ),
    ] = "",
    model: Annotated[str, typer.Option(envvar="OPENAI_MODEL", help="which model rewrites there")] = "",
    key: Annotated[str, typer.Option(envvar="OPENAI_API_KEY", hidden=True, help="of the endpoint")] = "",
    embedding: Annotated[
        str, typer.Option(help="folder or hub id of a sentence transformer; left out, letters are compared")
    ] = "",
    near: Annotated[float | None, typer.Option(help="least likeness to the task's own instructions, 0 to 1")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document for machines")] = False,
) -> None:
    """Paraphrase the tasks' instructions, and keep what still asks for the same."""
    from dataclasses import asdict
    from random import Random

    from rich.console import Console

    from instructdiffusion.model.errors import ConfigError
    from instructdiffusion.model.files import write_atomic
    from instructdiffusion.model.instructions import bank, grammar, keep
    from instructdiffusion.model.tasks import task_named
    from instructdiffusion.pipelines.work import shown

    own = bank.written([task_named(name).name for name in tasks] if tasks else None)
    if endpoint and not model:
        raise ConfigError("--endpoint is given without --model; name the model that rewrites there")
    with shown(Console(stderr=as_json), "paraphrase") as progress:
        if endpoint:
            from instructdiffusion.components.rewrite import Rewriter

            made = list(Rewriter(endpoint, model, out / SAID, key=key).paraphrases(own, count, progress))
        else:
            made = [p for w in own for p in grammar.paraphrases(w, Random(f"{seed}/{w.task}/{w.text}"), count)]
        kept, rejected = keep.sift(made, keep.by_network(embedding) if embedding else None, near)
    bank.save([*own, *kept], out / BANK)
    lines = [{**asdict(r.wording), "rule": r.rule, "told": r.told} for r in rejected]
    write_atomic(out / REJECTED, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    _tell(own, kept, rejected, out, as_json)


def _tell(
    own: Sequence[Wording], kept: Sequence[Wording], rejected: Sequence[Rejected], out: Path, as_json: bool
) -> None:
    rows = {
        task: {
            "hand": sum(w.task == task for w in own),
            "kept": sum(w.task == task for w in kept),
            "rejected": dict(Counter(r.rule for r in rejected if r.wording.task == task)),
        }
        for task in dict.fromkeys(w.task for w in own)
    }
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for task, row in rows.items():
        why = ", ".join(f"{rule} {n}" for rule, n in sorted(row["rejected"].items()))  # type: ignore[attr-defined]
        typer.echo(f"{task}: {row['hand']} by hand, {row['kept']} paraphrases" + (f"; rejected: {why}" if why else ""))
    typer.echo(f"the bank is {out / BANK}; what was rejected, and why, {out / REJECTED}")
