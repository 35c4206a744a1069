"""The nano model's tokenizer: whole words, those of this project's instructions. Full size has CLIP's."""

from __future__ import annotations

import re
from functools import cache

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def word_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words: those of the tasks' templates, colours, kinds, joints, places; no case, no commas."""
    words = ["<pad>", "<start>", "<end>", "<unknown>", *_words()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace("colour", "color"),
            normalizers.Replace(Regex("[^a-z ]"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
    )


@cache
def _words() -> tuple[str, ...]:
    from instructdiffusion.model.colors import MARKS, OBJECTS, TINTS
    from instructdiffusion.model.synthesis.objects import JOINTS, KINDS
    from instructdiffusion.model.synthesis.scenes import PLACES
    from instructdiffusion.model.tasks import TASKS

    texts = [re.sub(r"\{\w+\}", " ", t) for task in TASKS.values() for t in task.templates]
    texts += [*MARKS, *TINTS, *OBJECTS, *KINDS, *PLACES, *(j for joints in JOINTS.values() for j in joints)]
    texts += ["a dot on the and thing object left right of above below"]
    return tuple(sorted({w for text in texts for w in re.sub("[^a-z ]", " ", text.lower()).split()}))
