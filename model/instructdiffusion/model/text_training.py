"""How the base's text encoder learns to read, before there is any picture to look at.

Taught by pictures alone it does not learn which of several colours goes with which joint, nor much of which joint that
is. What an instruction names is known of every composed one; so at the last word of each thing named, the encoder
learns to tell all words of that thing, and the colour it is marked with or the part it has in the edit. Then it is
frozen, as Stable Diffusion's is.

scenes  ->  asks  ->  tokens, and at which of them which words are to be told  ->  a linear layer on the hidden states
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedTokenizerBase

from instructdiffusion.model.network import Model
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.task import Ask
from instructdiffusion.model.tasks import TASKS

STEPS, BATCH, RATE = 400, 96, 1e-3
SLOTS = ("phrase", "new", "place", "color")  # what a thing may be in an edit
Progress = Callable[[int, int, str], None]


def train(model: Model, *, steps: int, seed: int = 0, progress: Progress = lambda done, total, text: None) -> None:
    """Teach the model's text encoder in place.

    Args:
        steps: of 96 instructions.
        progress: called with (steps done, steps in all, the loss and how many things are told without a mistake).
    """
    torch.manual_seed(seed)
    encoder, tokenizer = model.text_encoder, model.tokenizer
    head = nn.Linear(encoder.config.hidden_size, len(tokenizer) + len(SLOTS))
    weights = [*encoder.requires_grad_(True).train().parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    asks = named(seed, model.resolution)
    for step in range(steps):
        tokens_BL, where_N2, words_NV = lesson(tokenizer, [next(asks) for _ in range(BATCH)], model.tokens)
        states_ND = encoder(tokens_BL).last_hidden_state[where_N2[:, 0], where_N2[:, 1]]
        logits_NV = head(states_ND)
        loss = binary_cross_entropy_with_logits(logits_NV, words_NV, reduction="sum") / len(words_NV)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        told = float(((logits_NV > 0) == (words_NV > 0)).all(1).float().mean())
        progress(step + 1, steps, f"loss {loss.item():.2f}, {told:.0%} told")
    encoder.eval().requires_grad_(False)


def named(seed: int, side: int) -> Iterator[Ask]:
    """Endless asks of all tasks that name something, each task as often."""
    rng, studio = Random(seed), Studio.open(side, "train")
    while True:
        for task in TASKS.values():
            _, label = task.stage(studio, rng)
            if (ask := task.ask(label, rng)).marks:
                yield ask


def lesson(
    tokenizer: PreTrainedTokenizerBase, asks: list[Ask], tokens: Callable[[list[str]], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of instructions; at which of them, as (instruction, token), something is told; and which words that is.

    The words are a row for each thing of zeros and ones: the tokenizer's vocabulary, then `SLOTS`.
    """
    tokens_BL = tokens([ask.instruction for ask in asks])
    where, words = list[tuple[int, int]](), list[Tensor]()
    for row, ask in enumerate(asks):
        line = tokens_BL[row].tolist()
        for thing, more in things(ask):
            own = _ids(tokenizer, thing)
            found = [at for at in range(len(line)) if line[at : at + len(own)] == own]
            if not own or not found:
                continue  # the instruction is longer than the encoder reads
            told = torch.zeros(len(tokenizer) + len(SLOTS))
            told[own] = 1
            told[len(tokenizer) + SLOTS.index(more) if more in SLOTS else _ids(tokenizer, more)] = 1
            where.append((row, found[0] + len(own) - 1))
            words.append(told)
    return tokens_BL, torch.tensor(where), torch.stack(words)


def things(ask: Ask) -> list[tuple[str, str]]:
    """What an instruction names, each with its colour, or with its part in the edit, one of `SLOTS`."""
    return [(told, name) if name in SLOTS else (name, told) for name, told in ask.marks]


def _ids(tokenizer: PreTrainedTokenizerBase, words: str) -> list[int]:
    ids: list[int] = tokenizer(words, add_special_tokens=False).input_ids
    return ids
