"""Policies: what is wrong in one is said at once, with the fix; what is right decides as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.quality import scores
from instructdiffusion.model.quality.policy import PACKAGED, Policy, Rule


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_policy_is_whole(name: str) -> None:
    policy = Policy.read(name)
    assert policy.name == name
    assert all(rule.limits() for rule in policy.rules)


def test_the_papers_policy_is_its_reading() -> None:
    aesthetic, gap = Policy.read("paper").rules
    assert (aesthetic.score, aesthetic.at_least) == ("aesthetic", 5.5)
    assert (gap.score, gap.at_least, gap.at_most) == ("aesthetic_gap", -0.5, 0.5)
    assert [aesthetic.passes(value) for value in (5.49, 5.5)] == [False, True]
    assert [gap.passes(value) for value in (-0.51, -0.5, 0.5, 0.51)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rules: [{name: sharp, score: sharpness}]", "rule sharp: no score 'sharpness'; choose one of aesthetic"),
        ("rules: [{name: a, score: psnr, at_least: 3, below: 2}]", "rule a: nothing is both from 3 on and up to 2"),
        ("rules: [{name: a, score: psnr, tasks: [paint]}]", "rule a: tasks: no task or family 'paint'; choose from"),
        ("rules: [{name: a, score: colour, tasks: [denoise]}]", "colour means nothing for denoise, only for recolour"),
        ("rules: [{name: a, score: psnr, make: [paint]}]", "rule a: make: 0: input should be 'remove'"),
        ("rules: [{name: a, score: psnr}, {name: a, score: side}]", "rules of one name: a"),
        ("rules: [{name: a, score: clip_text}]", "rule a: options of clip_text: clip: field required"),
        ("rules: [{name: a, score: psnr, atleast: 3}]", "rule a: atleast: extra inputs are not permitted"),
        ("rules: [{name: a, score: psnr, at_least: .nan}]", "rule a: at_least: "),
        ("rules: []", "rules: tuple should have at least 1 item"),
        ("just text\n", "is no mapping with `rules`"),
        ("{rules: [", "is no YAML"),
    ],
)
def test_what_is_wrong_in_a_policy_is_one_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        Policy.read(text if "\n" in text or text.startswith("{") else f"{text}\n")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="choose embedded or paper, or name a YAML file"):
        Policy.read("own.yaml")


def test_single_rules_are_changed_by_settings(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nrules: [{name: shows, score: psnr, below: 45}, {name: t, score: clip_text}]\n")
    policy = Policy.read(str(own), ["shows.below=30", "t.clip=/models/clip", "t.at_least=0.2"])
    assert policy.rules[0].below == 30
    assert policy.rules[1].options == {"clip": "/models/clip"}
    assert policy.digest != Policy.read(str(own), ["shows.below=31", "t.clip=/models/clip", "t.at_least=0.2"]).digest
    with pytest.raises(ConfigError, match=r"write RULE\.FIELD=VALUE, RULE one of shows, t"):
        Policy.read(str(own), ["large.below=3"])


def test_a_rule_applies_to_the_tasks_that_it_names_and_its_score_means_something_for() -> None:
    everywhere, editing = Rule(name="a", score="psnr"), Rule(name="b", score="covered")
    removal = Rule(name="c", score="covered", tasks=("remove",))
    assert [everywhere.applies(task) for task in ("keypoint", "remove", "edit")] == [True, True, True]
    assert [editing.applies(task) for task in ("keypoint", "remove", "add")] == [False, True, True]
    assert [removal.applies(task) for task in ("remove", "add")] == [True, False]
    ours = Rule(name="d", score="psnr", make=("remove", "edit"))
    assert [ours.applies("remove", made) for made in ("", "remove", "add")] == [False, True, False]


def test_a_path_is_below_the_policys_folder_and_one_that_is_typed_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = "{name: a, score: aesthetic, options: {clip: openai/clip, head: head.pth}}"
    (tmp_path / "own.yaml").write_text(f"name: own\nrules: [{rule}]\n")
    monkeypatch.chdir(tmp_path.parent)
    policy = Policy.read(str(tmp_path / "own.yaml"))
    assert policy.rules[0].made(policy.place).options.head == tmp_path / "head.pth"
    assert policy.rules[0].made(policy.place).options.clip == "openai/clip"
    assert policy.digest == policy.below("s3://bucket").digest
    typed = Policy.read(str(tmp_path / "own.yaml"), ["a.head=other.pth", "a.clip=./clip"])
    options = typed.rules[0].made(typed.place).options
    assert (options.head, options.clip) == (tmp_path.parent / "other.pth", str(tmp_path.parent / "clip"))


def test_every_score_says_what_its_values_are() -> None:
    assert len(scores()) >= 18
    assert all(score.about and score.name == name for name, score in scores().items())
