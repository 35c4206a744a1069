"""Wordings: paraphrases that ask for the same, told from those that don't, and triplets asked for in them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import published
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import sentences

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.data.sources import Scenes, Sources, read_sources
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.instructions import bank, grammar, keep
from instructdiffusion.model.instructions.bank import Wording
from instructdiffusion.model.tasks import EVERY, TASKS, understand

WORDED = [task for task in EVERY.values() if task.templates]


def test_thirteen_tasks_have_ten_instructions_written_by_hand_which_the_rules_allow() -> None:
    assert len(WORDED) >= 13
    assert all(len({*task.templates}) >= 10 for task in WORDED)
    assert {*keep.VERBS} == {task.name for task in WORDED}
    kept, rejected = keep.sift(bank.written(), near=0)
    assert not kept  # they are not paraphrases of themselves
    assert {r.rule for r in rejected} == {"twice"}


@given(st.sampled_from(WORDED), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_grammar_touches_no_slot_and_repeats_by_its_seed(task: object, seed: int) -> None:
    wording = Random(seed).choice(bank.written([task.name]))  # type: ignore[attr-defined]
    made = [*grammar.paraphrases(wording, Random(seed), 8)]
    assert made == [*grammar.paraphrases(wording, Random(seed), 8)]
    assert len({w.text for w in made}) == len(made)
    for paraphrase in made:
        assert bank.slots(paraphrase.text) == bank.slots(wording.text)
        assert paraphrase.of == wording.text != paraphrase.text


def test_the_embedded_bank_is_what_the_command_makes_of_the_hand_written_ones() -> None:
    own = bank.written()
    made = [p for w in own for p in grammar.paraphrases(w, Random(f"0/{w.task}/{w.text}"), 6)]
    assert [*own, *keep.sift(made)[0]] == bank.load(bank.FILE)


@pytest.mark.parametrize("name", ["simple", "embedded"])
@pytest.mark.parametrize("task", TASKS)
def test_an_ask_in_other_words_is_understood_as_the_same_ask(task: str, name: str) -> None:
    words, rng = bank.bank(name), Random(3)
    assert words
    for _ in range(12):
        _, label = TASKS[task].toy(rng)
        ask = TASKS[task].ask(label, rng)
        told = bank.reword(ask, label, words, rng)
        heard = understand(told.instruction)
        assert heard is not None, told.instruction
        assert (heard.task, {*heard.marks}) == (ask.task, {*ask.marks}), told.instruction
        assert told.marks == ask.marks


def test_a_new_thing_has_the_article_that_it_needs_in_any_words() -> None:
    rng = Random(0)
    _, label = TASKS["add"].toy(rng)
    label = {**label, "words": {"new": "orange cup", "place": "on the left"}}
    told = bank.reword(TASKS["add"].ask(label, rng), label, {"add": ("Please add a {new} {place}.",)}, rng)
    assert told.instruction == "Please add an orange cup on the left."
    heard = understand(told.instruction)
    assert heard is not None
    assert dict(heard.marks)["new"] == "orange cup"


@pytest.mark.parametrize(
    ("task", "text", "rule", "told"),
    [
        ("remove", "Remove it.", "slots", "has none in place of phrase"),
        ("remove", "Remove the {phrase} and the {phrase}.", "slots", "has phrase, phrase"),
        ("recolour", "Make the {phrase} red.", "slots", "has phrase in place of color, phrase"),
        ("remove", "Remove the {phrase.", "slots", "expected '}'"),
        ("remove", "Admire the {phrase} for what it is.", "verb", "none that asks for remove"),
        ("remove", "Erase the {phrase}!", "twice", "said already"),
        ("remove", "Remove the {phrase}" + " now" * 60, "length", "letters"),
        ("denoise", "Take the red car out of the street.", "meaning", "near"),
        ("denoise", "Remove the watermark, please.", "meaning", "nearer to watermark"),
    ],
)
def test_a_paraphrase_that_asks_for_something_else_is_rejected_with_the_reason(
    task: str, text: str, rule: str, told: str
) -> None:
    kept, (rejected,) = keep.sift([Wording(task, text, "model")])
    assert not kept
    assert rejected.rule == rule
    assert told in rejected.told


SAME = (
    ("denoise", "Filter the noise out of this photo."),
    ("denoise", "Smooth away the grain in the picture."),
    ("deblur", "Make this blurred photo sharp again."),
    ("watermark", "Take the watermark text off the photo."),
    ("remove", "Take the {phrase} away from the photo."),
    ("add", "Put in a {new} {place}."),
    ("replace", "Substitute the {phrase} with a {new}."),
    ("recolour", "Change the {phrase} to the color {color}."),
    ("keypoint", "Put {marks} on the {phrase}."),
    ("dehaze", "Clear this picture of fog."),
)
OTHER = (
    ("denoise", "Take this picture home."),
    ("deblur", "Make a cake for everybody."),
    ("watermark", "Get milk and bread."),
    ("remove", "Want to know who the {phrase} is?"),
    ("recolour", "Give the {color} team a {phrase}, coach."),
    ("dehaze", "Get rid of the noise."),
    ("colorize", "Put on some music."),
    ("brighten", "Turn left at the corner."),
)


UNSAID = (
    ("remove", "Do not remove the {phrase}."),
    ("remove", "Never erase the {phrase}."),
    ("remove", "Don’t delete the {phrase} from the picture."),
    ("remove", "Please take a picture of the {phrase}."),
    ("remove", "Get the {phrase} into the picture."),
    ("remove", "Who would want the {phrase} here?"),
    ("keypoint", "Add no dots: leave the {phrase} without {marks}."),
    ("add", "Please do not add a {new} {place}."),
    ("recolour", "The {phrase} should not be {color}."),
    ("denoise", "I will not remove the noise."),
    ("deblur", "Make this photo without sharp details."),
    ("brighten", "Make the dark photo no brighter."),
    ("dehaze", "Take a photo of the fog."),
)
SAID = (
    ("remove", "I don't want the {phrase} here."),
    ("remove", "Could you please get rid of the {phrase}?"),
    ("remove", "I'd like you to erase the {phrase}, and nothing else."),
    ("add", "I'd like a {new} {place}."),
    ("denoise", "Give me a version without the noise."),
    ("recolour", "The {phrase} must be {color}."),
)


def test_what_denies_or_has_no_verb_that_asks_is_rejected_and_what_the_hand_written_ones_deny_is_not() -> None:
    kept, rejected = keep.sift(Wording(task, text, "model") for task, text in UNSAID)
    assert not kept
    assert {r.rule for r in rejected} == {"negation", "verb"}
    assert rejected[0].told == "not remove"
    assert [(w.task, w.text) for w in keep.sift([Wording(task, text, "model") for task, text in SAID])[0]] == [*SAID]


def test_letters_tell_paraphrases_from_other_sentences() -> None:
    kept, _ = keep.sift([Wording(task, text, "model") for task, text in SAME])
    wrong, _ = keep.sift([Wording(task, text, "model") for task, text in OTHER])
    assert len(kept) >= 0.8 * len(SAME), [w.text for w in kept]
    assert len(wrong) <= 0.25 * len(OTHER), [w.text for w in wrong]


def test_a_sentence_transformer_gives_rows_of_length_one_whatever_stands_beside_a_text(tmp_path: Path) -> None:
    embed = keep.by_network(sentences(tmp_path))
    alone, beside = embed(["remove the noise"])[0], embed(["remove the noise", "a much longer sentence than that"])[0]
    assert (alone**2).sum() == pytest.approx(1)
    assert alone == pytest.approx(beside, abs=1e-4)
    kept, _ = keep.sift([Wording("denoise", "Please remove the noise.", "model")], embed, near=-1)
    assert len(kept) in (0, 1)  # weights of chance: only that it runs through


def test_scenes_are_asked_for_in_simple_words_and_are_the_same_scenes(tmp_path: Path) -> None:
    def built(instructions: str) -> list[tuple[str, bytes, str]]:
        sources = Sources(sources=(Scenes(scenes=12),), instructions=instructions)
        build(Order(sources, size=32, seed=0), tmp_path / instructions, workers=1)
        return [(t.ask.task, t.target.tobytes(), t.ask.instruction) for t in read_triplets(tmp_path / instructions)]

    hand, simple, embedded = built("hand"), built("simple"), built("embedded")
    assert [row[:2] for row in hand] == [row[:2] for row in simple] == [row[:2] for row in embedded]
    assert all(row[2].startswith(row[0]) for row in simple)
    assert built("embedded") == embedded
    assert sum(a[2] != b[2] for a, b in zip(hand, embedded, strict=True)) > 6


def test_shards_in_other_words_are_made_again_and_the_manifest_tells_which(tmp_path: Path) -> None:
    def built(instructions: str) -> tuple[str, str]:
        sources = Sources(sources=(Scenes(scenes=3),), instructions=instructions)
        manifest = build(Order(sources, size=32, seed=0), tmp_path / "out", workers=1)
        return manifest.shards[0].digest, manifest.settings["instructions"]

    mine = tmp_path / "mine.jsonl"
    bank.save([Wording("denoise", "Away with the noise.", "hand")], mine)
    said = [built("hand"), built("simple"), built("embedded"), built(str(mine))]
    bank.save([Wording("denoise", "Away with all the noise.", "hand")], mine)
    said.append(built(str(mine)))
    assert len({told for _, told in said}) == 5
    assert len({digest for digest, _ in said[:3]}) == 3
    assert built("hand") == said[0]


def test_a_data_sets_own_words_stay(tmp_path: Path) -> None:
    root = published.own_triplets(tmp_path / "mine", published.own_line(1))
    file = tmp_path / "sources.yaml"
    source = {"name": "mine", "path": str(root), "split": "train"}
    file.write_text(yaml.safe_dump({"instructions": "simple", "sources": [source]}))
    build(Order(read_sources(file), size=32, seed=0), tmp_path / "out", workers=1)
    assert [t.ask.instruction for t in read_triplets(tmp_path / "out")] == ["make it white"]


def test_a_bank_of_ones_own_is_below_the_sources_file_and_a_wrong_line_of_it_is_named(tmp_path: Path) -> None:
    bank.save([Wording("denoise", "Away with it all.", "hand")], tmp_path / "mine.jsonl")
    file = tmp_path / "sources.yaml"
    file.write_text("instructions: mine.jsonl\nsources: [{scenes: 30}]\n")
    build(Order(read_sources(file), size=32, seed=0), tmp_path / "out", workers=1)
    said = {t.ask.instruction for t in read_triplets(tmp_path / "out", ["denoise"])}
    assert said == {"Away with it all."}
    with (tmp_path / "mine.jsonl").open("a") as lines:
        lines.write(json.dumps({"task": "remove", "text": "Remove it.", "by": "hand"}) + "\n")
    with pytest.raises(DataError, match=r"line 2 of .*mine\.jsonl has other slots than remove"):
        bank.bank(str(tmp_path / "mine.jsonl"))
    with pytest.raises(ConfigError, match="give hand, simple, embedded, or a file"):
        bank.bank("nowhere.jsonl")
