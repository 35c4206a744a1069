"""Kills a training again and again, at steps and in ways that a seed chooses, and looks whether anything was lost.

python bench/soak.py            # 20 kills, some minutes; writes bench/results/*.json

A rank, torchrun, all processes of the node, or these and the step that started them are killed with SIGKILL. The step
goes on by itself; when it is killed too, the same command is started again. In the end the weights have to be those
of a training that nobody touched, to the last bit, and the account has to hold every triplet that was due once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import psutil
from figures import record

from instructdiffusion.components import encode, synthesize, train
from instructdiffusion.components.settings import Settings, Training
from instructdiffusion.model import account
from instructdiffusion.model.config import Run, override
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.latest import marks
from instructdiffusion.model.recipes import smoke

WAYS = ("rank", "torchrun", "node", "step")
EVERY = 3  # steps between checkpoints
PROGRAM = "instructdiffusion.components.training_node"


def run_of(kills: int) -> Run:
    """A training of two processes that is long enough for so many kills."""
    return override(
        smoke(), [f"optim.steps={3 * kills + 3}", f"checkpoint_every={EVERY}", "account=true", "samples_every=0"]
    )


def prepare(folder: Path, run: Run) -> None:
    """A small data set in `latents`, and an untrained model."""
    from instructdiffusion.model import network
    from instructdiffusion.model.data.shards import read_triplets

    counts = {"remove": 8, "denoise": 8}
    shards = synthesize.run(folder / "shards", split="train", counts=counts, size=run.network.size, seed=0).path
    pictures = [triplet.source for triplet in read_triplets(shards)]
    model = network.save(network.create(run.network, run.diffusion, pictures), folder / "model")
    encode.run(shards, model, folder / "latents", states=False)


def step(folder: Path, out: Path, kills: int) -> None:
    """The train step, as a pipeline runs it."""
    training = Training(launches=kills + 1)  # several kills may fall between two checkpoints
    settings = Settings.from_environment(needs=()).model_copy(update={"training": training})
    train.run(run_of(kills), folder / "latents", out, model=folder / "model", settings=settings)


def started(folder: Path, out: Path, kills: int) -> subprocess.Popen[bytes]:
    """The step in a process of its own."""
    with (folder / "step.log").open("ab") as log:
        command = [sys.executable, __file__, "--step", str(folder), str(out), "--kills", str(kills)]
        return subprocess.Popen(command, stdout=log, stderr=log)


def family(pid: int) -> dict[str, list[psutil.Process]]:
    """What a step has started: torchrun, and the ranks that have done a step."""
    found: dict[str, list[psutil.Process]] = {"torchrun": [], "rank": []}
    try:
        for process in psutil.Process(pid).children(recursive=True):
            words = " ".join(process.cmdline())
            if PROGRAM in words:
                found["torchrun" if "torch.distributed.run" in words else "rank"].append(process)
    except psutil.NoSuchProcess:
        pass  # it ended while we looked
    return found


def reached(out: Path) -> int:
    """The last step in the account of the first rank."""
    try:
        return max((json.loads(line)["step"] for line in account.files(out)[0].read_text().splitlines()), default=0)
    except (IndexError, ValueError, OSError):
        return 0


def wait_for(child: subprocess.Popen[bytes], out: Path, due: int) -> dict[str, list[psutil.Process]]:
    """Wait until a training with both ranks at work has done step `due`; returns its processes."""
    while True:
        if child.poll() is not None:
            sys.exit(f"the step ended by itself before step {due}, with {child.returncode}; see its log")
        found = family(child.pid)
        if reached(out) >= due and len(found["rank"]) == 2:
            began = max(rank.create_time() for rank in found["rank"])
            if account.files(out)[0].stat().st_mtime > began:
                return found
        time.sleep(0.02)


def kill(way: str, child: subprocess.Popen[bytes], found: dict[str, list[psutil.Process]], rng: Random) -> None:
    """End some processes with SIGKILL, and wait until those that are to go with them are gone."""
    doomed = {
        "rank": [rng.choice(found["rank"])],
        "torchrun": found["torchrun"],
        "node": found["torchrun"] + found["rank"],
        "step": [psutil.Process(child.pid), *found["torchrun"], *found["rank"]],
    }[way]
    for process in doomed:
        process.kill()
    if way == "step":
        child.wait()
    _, alive = psutil.wait_procs(found["torchrun"] + found["rank"], timeout=60)
    if alive:
        sys.exit(f"{alive} outlived the kill of {way}")


def soak(folder: Path, kills: int, seed: int) -> None:
    """Do it all and say what happened; ends the program with a line if something was lost."""
    rng, run = Random(seed), run_of(kills)
    prepare(folder, run)
    step(folder, folder / "whole", kills)
    out, again = folder / "killed", 0
    child = started(folder, out, kills)
    for number, due in enumerate(sorted(rng.sample(range(1, run.optim.steps - 1), kills)), 1):
        way, found = rng.choice(WAYS), wait_for(child, out, due)
        kill(way, child, found, rng)
        at, saved = reached(out), max((mark["step"] for mark in marks(out / train.CHECKPOINTS)), default=0)
        print(f"kill {number:>2}: {way:<8} at step {at}, the last checkpoint is of step {saved}", flush=True)
        again += at - saved
        if at - saved > EVERY:
            sys.exit(f"more than the {EVERY} steps between checkpoints were lost")
        if way == "step":
            child = started(folder, out, kills)
    if child.wait():
        sys.exit(f"the step ended with {child.returncode}: {(folder / 'step.log').read_text()[-2000:]}")
    compare(folder)
    tell(kills, again, *triplets(folder, run))
    print(
        f"{kills} kills, {again} steps of {run.optim.steps} done again, none lost: the weights are those of a whole run"
    )


def compare(folder: Path) -> None:
    """End the program if the weights are not those of the whole run."""
    if digest_of(folder / "killed/model/unet") != digest_of(folder / "whole/model/unet"):
        sys.exit("the weights are not those of the training that nobody touched")


def triplets(folder: Path, run: Run) -> tuple[int, int]:
    """How many were due, and of how many of them the account is wrong: left out, taken twice or in another step."""
    order = Latents.open(folder / "latents").mixture(run.seed, run.weights)
    size, done = run.optim.batch_size, account.read(folder / "killed")
    due = Counter((at // size + 1, number) for at, number in enumerate(order.draws(range(run.optim.steps * size))))
    taken = Counter((step, number) for step, numbers in done.items() for number in numbers)
    return due.total(), max((due - taken).total(), (taken - due).total())


def tell(kills: int, again: int, due: int, lost: int) -> None:
    """Write the figures; ends the program if a triplet was lost."""
    name = f"A training killed {kills} times"
    record(f"{name}, kills it went on after", kills, "kills", kills, held="all", repeats=1)
    record(f"{name}, steps done again", again, "steps", kills * EVERY, held="at most", repeats=1)
    record(f"{name}, triplets lost", lost, "triplets", due, held="due", repeats=1)
    if lost:
        sys.exit("the account is not what was due: a triplet was left out or taken twice")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of when and what")
    parser.add_argument("--step", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step(*given.step, given.kills)
    else:
        with TemporaryDirectory() as name:
            soak(Path(name), given.kills, given.seed)
