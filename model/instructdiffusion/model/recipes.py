"""Named runs. A recipe is a function; one recipe is another with a change, and says why.

Three stages, each at three sizes. `adapt`, `train` and `align` are nano; `little` is for experiments
and `smoke` for tests.

    stage   nano     one GPU        the paper's
    1       adapt    small_adapt    paper_adapt     pictures with painted marks, from captions
    2       train    small          paper           all tasks
    3       align    small_align    paper_align     the edits that were picked

Those of one GPU and of the paper start from a model that `instructdiffusion model import` made of SD 1.5.
"""

from __future__ import annotations

from collections.abc import Callable

from instructdiffusion.model.config import Diffusion, Lora, Network, Optim, Run
from instructdiffusion.model.errors import ConfigError

_NANO = Diffusion(
    prediction="sample",
    from_source=True,
    schedule="squaredcos_cap_v2",
    time_power=2 / 3,
    drop_text=0.04,
    drop_image=0.02,
    focus=0.5,
    gate=True,
    relative=True,
    last_share=0.9,
)


def paper() -> Run:
    """Stage 2 at full size: SD 1.5, 256 pixels, batch 3072, 200 epochs of 955 000 triplets (paper, section 4.1)."""
    return Run(
        name="paper", network=Network(size=256), optim=Optim(gradient_checkpointing=True, spike=10), samples_every=500
    )


def paper_adapt() -> Run:
    """Stage 1 at full size: pictures with painted marks from captions. How long, the paper does not say."""
    run = paper()
    optim = run.optim.model_copy(update={"steps": 10_000})
    return _captioned(run).model_copy(update={"name": "paper_adapt", "optim": optim})


def paper_align() -> Run:
    """Stage 3 at full size: ten epochs of the 1000 pictures that people picked, with a short average (section 4.8)."""
    run = paper()
    optim = run.optim.model_copy(update={"steps": 160, "batch_size": 64, "micro_batch": 8})
    changes = {"name": "paper_align", "optim": optim, "ema_decay": 0.99, "seed": 1, "checkpoint_every": 16}
    changes["samples_every"] = 40
    return run.model_copy(update=changes)


def small() -> Run:
    """Stage 2 on one GPU: SD 1.5 at 256 pixels, adapters in place of all weights, a batch of 128."""
    batch = {"batch_size": 128, "micro_batch": 16, "gradient_checkpointing": True}
    optim = Optim(steps=20_000, warmup=500, zero_stage=0, spike=10, **batch)
    run = Run(name="small", network=Network(size=256), optim=optim, lora=Lora(rank=64, alpha=64), ema_decay=0.999)
    return run.model_copy(update={"samples_every": 500})


def small_adapt() -> Run:
    """Stage 1 on one GPU, as `small`."""
    run = small()
    optim = run.optim.model_copy(update={"steps": 2_000})
    return _captioned(run).model_copy(update={"name": "small_adapt", "optim": optim})


def small_align() -> Run:
    """Stage 3 on one GPU: ten epochs of 1000 pictures."""
    run = small()
    optim = run.optim.model_copy(update={"steps": 160, "batch_size": 64, "warmup": 10})
    changes = {"name": "small_align", "optim": optim, "ema_decay": 0.99, "seed": 1, "checkpoint_every": 16}
    changes["samples_every"] = 40
    return run.model_copy(update=changes)


def base() -> Run:
    """The embedded nano base, from nothing, on composed scenes; before, its text encoder learns to read.

    It predicts the target as source + gate * output, most often from pure noise, and its loss is a share of what
    changing nothing loses. Half of the time it has only the words, not their summary, and its attention learns slowly
    (docs/decisions/0002-nano-base.md has what was tried).
    """
    return Run(
        name="base",
        network=Network(widths=(192, 128, 192), text_layers=4),
        diffusion=_NANO.model_copy(update={"drop_pooled": 0.5}),
        optim=Optim(
            steps=8_850,
            batch_size=64,
            micro_batch=64,
            learning_rate=1e-3,
            attention_rate=0.25,
            warmup=300,
            decay="wsd",
            zero_stage=0,
        ),
        ema_decay=0.999,
        checkpoint_every=250,
        samples_every=1_000,
    )


def adapt() -> Run:
    """Stage 1 at nano size: pictures with painted marks, from captions alone (section 3.3).

    The base knows marks already, for it is made from nothing on all tasks: this is here to show the stage whole.
    """
    return _captioned(train()).model_copy(update={"name": "adapt"})


def train() -> Run:
    """Stage 2 at nano size: the multi-task mixture, from the base, two processes; the text encoder is frozen.

    The rate rises slowly: Adam's first steps know no scale yet and would undo some of what the base learnt for hours.
    """
    return Run(
        name="train",
        diffusion=_NANO,
        optim=Optim(steps=60, batch_size=32, micro_batch=16, learning_rate=1e-4, warmup=100),
        ema_decay=0.99,
        checkpoint_every=20,
        log_every=5,
        samples_every=20,
    )


def align() -> Run:
    """Stage 3: the edits that were picked. A short average follows the few new pictures quickly (section 4.8).

    The gate is not taught what changes: an edit that a model made changes a little everywhere, and that is not wanted.
    """
    run = train()
    optim = run.optim.model_copy(update={"learning_rate": 5e-5, "warmup": 10})
    diffusion = run.diffusion.model_copy(update={"gate_weight": 0.0})
    return run.model_copy(
        update={"name": "align", "optim": optim, "diffusion": diffusion, "ema_decay": 0.99, "seed": 1}
    )


def aligning(name: str) -> Run:
    """The recipe of stage 3 at the size of the named one, which may be of any stage.

    Raises:
        ConfigError: there is no such recipe.
    """
    size = recipe(name).name.partition("_")[0]
    return recipe(f"{size}_align" if size in ("small", "paper") else "align")


def little() -> Run:
    """From nothing on half the side with a fifth of the weights, for experiments that train many models."""
    run = base()
    sizes = {"size": 32, "widths": (48, 64), "heads": 2, "text_width": 64, "text_layers": 1}
    network = run.network.model_copy(update=sizes)
    changes = {"name": "little", "network": network, "ema_decay": 0.98, "train_text": True}
    return run.model_copy(update=changes)


def smoke() -> Run:
    """The smallest run that does everything, for tests."""
    tiny = Network(size=32, channels=12, widths=(16, 32), heads=2, text_width=32, text_layers=1)
    optim = Optim(
        steps=4, batch_size=4, micro_batch=2, learning_rate=1e-3, attention_rate=0.5,
        precision="fp32", attention="plain", layout="channels_first",
    )  # fmt: skip
    return Run(
        name="smoke",
        network=tiny,
        diffusion=_NANO,
        optim=optim,
        ema_decay=0.9,
        train_text=True,
        checkpoint_every=2,
        log_every=1,
        samples_every=2,
    )


def _captioned(run: Run) -> Run:
    """The same run without sources: every sample loses its picture and keeps its words.

    No adapter sits where the source comes in, for it starts from chance and nothing would correct it there.
    """
    diffusion = run.diffusion.model_copy(update={"drop_image": 1.0, "drop_text": 0.0})
    lora = run.lora.model_copy(update={"targets": tuple(name for name in run.lora.targets if name != "conv_in")})
    return run.model_copy(update={"diffusion": diffusion, "lora": lora})


RECIPES: dict[str, Callable[[], Run]] = {
    r.__name__: r
    for r in (
        *(base, adapt, train, align),
        *(small_adapt, small, small_align),
        *(paper_adapt, paper, paper_align),
        *(little, smoke),
    )
}


def recipe(name: str) -> Run:
    """The run of a named recipe.

    Raises:
        ConfigError: there is no such recipe; lists those there are.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()
