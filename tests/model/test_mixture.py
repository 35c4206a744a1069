"""The mixture: shares are those declared, whatever the weights, and nothing depends on who draws, or since when."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from instructdiffusion.model import recipes
from instructdiffusion.model.config import override
from instructdiffusion.model.data.draws import Draws, figures
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.data.mixture import AT_HAND, Heap, Mixture
from instructdiffusion.model.engine import micro_batch
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.train import parts

SIZES = {"people": (3000, 0.37), "blurred": (700, 2.0), "scenes": (5000, 1.0), "rare": (90, 6.62), "off": (50, 0.0)}


def mixture(sizes: dict[str, tuple[int, float]] = SIZES, seed: int = 0, per_file: int = 100) -> Mixture:
    heaps, first = {}, 0
    for name, (count, weight) in sizes.items():
        numbers = np.arange(first, first + count)
        heaps[name] = Heap([numbers[i : i + per_file] for i in range(0, count, per_file)], weight)
        first += count
    return Mixture(heaps, seed)


def owners(drawn: list[int], sizes: dict[str, tuple[int, float]] = SIZES) -> Counter[str]:
    ends = np.cumsum([count for count, _ in sizes.values()])
    return Counter(np.array([*sizes])[np.searchsorted(ends, drawn, "right")].tolist())


@pytest.mark.parametrize("epoch", [0, 1, 7, 100])
def test_the_share_of_every_source_in_every_epoch_is_the_declared_one(epoch: int) -> None:
    mixed = mixture()
    drawn = mixed.epoch(epoch).tolist()
    declared = {name: count * weight for name, (count, weight) in SIZES.items()}
    for name, number in owners(drawn).items():
        assert number / len(drawn) == pytest.approx(declared[name] / sum(declared.values()), rel=0.01)
    assert owners(drawn)["off"] == 0


def test_no_fraction_of_a_weight_is_ever_lost() -> None:
    sizes = {"few": (7, 0.3), "many": (10, 1.0)}
    drawn = mixture(sizes).draws(range(121))  # ten epochs of 12.1
    assert owners(drawn, sizes) == {"few": 21, "many": 100}


def test_a_source_is_gone_through_before_it_begins_again() -> None:
    for weight in (0.37, 1.0, 2.5):
        drawn = mixture({"one": (1000, weight)}).draws(range(3000))
        for start in (0, 1000, 2000):
            assert sorted(drawn[start : start + 1000]) == [*range(1000)]


def test_a_resumed_run_draws_the_same() -> None:
    whole = mixture().draws(range(20_000))
    for batch in (48, 64):
        for step in (0, 3, 150, 20_000 // batch - 1):
            places = range(step * batch, (step + 1) * batch)
            assert mixture().draws(places) == whole[places.start : places.stop]


@pytest.mark.parametrize("worlds", [*((world,) for world in range(1, 9)), (1, 2, 3, 4, 5, 6, 7, 8), (8, 3, 8, 1)])
def test_an_epoch_takes_each_triplet_once_however_many_processes_share_it_and_if_they_change_on_the_way(
    worlds: tuple[int, ...],
) -> None:
    run = override(recipes.smoke(), ["optim.batch_size=840", "optim.micro_batch=8"])
    order = mixture({"one": (8 * 840, 1.0)})
    taken = list[int]()
    for step in range(8):
        world = worlds[step % len(worlds)]
        of_each = [parts(order, run, rank, world, step) for rank in range(world)]
        assert {sum(map(len, some)) for some in of_each} == {840 // world}
        assert {len(part) for some in of_each for part in some} == {micro_batch(run.optim, world)}
        assert all(len(part) <= 8 for some in of_each for part in some)
        taken += [number for some in of_each for part in some for number in part]
    assert sorted(taken) == [*range(8 * 840)]


def test_only_a_few_files_of_a_source_are_needed_at_a_time() -> None:
    drawn = np.array(mixture({"one": (5000, 1.0)}).draws(range(5000))) // 100
    windows = [set(drawn[i : i + AT_HAND * 100].tolist()) for i in range(0, 5000, AT_HAND * 100)]
    assert max(map(len, windows)) == AT_HAND
    assert drawn[:AT_HAND].tolist() != sorted(drawn[:AT_HAND].tolist())


def test_seeds_differ_and_repeat() -> None:
    assert mixture(seed=1).draws(range(100)) == mixture(seed=1).draws(range(100))
    assert mixture(seed=1).draws(range(100)) != mixture(seed=2).draws(range(100))


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nothing to draw from \(one: 5 at 0\)"):
        mixture({"one": (5, 0.0)})


def test_weights_of_a_run_replace_those_of_the_data_and_have_to_name_a_source(latents: Path) -> None:
    opened = Latents.open(latents)
    assert sum(heap.count for heap in opened.heaps.values()) == len(opened)
    run = override(recipes.smoke(), ["weights.scenes=0.5"])
    with pytest.raises(ConfigError, match="no source is named scenes; there is none that has a name"):
        opened.mixture(0, run.weights)


def test_what_was_drawn_so_far_is_counted_from_the_place_alone() -> None:
    for place in (0, 1, 13_000, 29_999):
        drawn = mixture().draws(range(place))
        assert mixture().counts(place).tolist() == np.bincount(drawn, minlength=8840).tolist()


def test_shares_are_those_drawn_beside_those_declared() -> None:
    sizes = {"few": (100, 3.0), "many": (700, 1.0)}
    tasks = np.array(["add", "remove"] * 400)
    draws = Draws(mixture(sizes), tasks)
    whole = draws.shares(1000)  # an epoch
    assert whole["source"] == {"few": {"declared": 0.3, "drawn": 0.3}, "many": {"declared": 0.7, "drawn": 0.7}}
    assert whole["task"]["add"]["declared"] == 0.5
    owned = owners(mixture(sizes).draws(range(90)), sizes)
    told = figures(draws.shares(90))
    assert told["mixture/source/few"] == pytest.approx(owned["few"] / 90)
    assert told["mixture/off"] >= abs(told["mixture/source/few"] - 0.3)
    assert "source" not in Draws(mixture({"": (800, 1.0)}), tasks).shares(10)  # it has no name to tell
