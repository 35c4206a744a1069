"""Edits in anybody's words: what people asked for and got, from public data sets of instructions.

No template knows such an instruction and nothing is read from the answer. It is scored by its target: how much nearer
the output comes to it where it differs from the source, and how well the rest is left alone.
"""

from __future__ import annotations

from random import Random

from instructdiffusion.model.task import Ask, Image, Label, Metric
from instructdiffusion.model.tasks.editing import Editing, changed


class Edit(Editing):
    """Label: the `instruction` as the data set words it, and the `target` picture."""

    name = "edit"
    weight = 43.0  # as much as the four kinds of edits that are composed together
    composed = False
    metric = Metric("gain", "dB of PSNR where source and target differ, over doing nothing", 1.0)
    templates = ()
    needs = ("target", "instruction")

    def ask(self, label: Label, rng: Random) -> Ask:
        self.check(label)
        return Ask(self.name, label["instruction"])

    def score(self, output: Image, source: Image, label: Label, ask: Ask) -> dict[str, float]:
        return super().score(output, source, {**label, "mask": changed(label["target"], source)}, ask)


TASKS = (Edit(),)
