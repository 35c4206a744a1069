"""What a sources file names: where it lies, whichever way it is said, and the paper's own file."""

from __future__ import annotations

import re
from pathlib import Path

import published
import pytest

from instructdiffusion.model.addresses import below, parted
from instructdiffusion.model.data.offers import walker
from instructdiffusion.model.data.readers import readers
from instructdiffusion.model.data.sources import DataSet, Synthesis, packaged, sources_of
from instructdiffusion.model.errors import ConfigError, DataError

DOCS = Path(__file__).parents[2] / "docs/data.md"


@pytest.mark.parametrize(
    ("address", "sure", "found"),
    [
        ("coco", True, "s3://b/sets/coco"),
        ("../coco/", True, "s3://b/coco"),
        ("/data/coco", True, "/data/coco"),
        ("s3://other/coco", True, "s3://other/coco"),
        ("lama:big-lama.pt", False, "lama:s3://b/sets/big-lama.pt"),
        ("lama:s3://other/lama.pt", False, "lama:s3://other/lama.pt"),
        ("blip2:./blip2", False, "blip2:s3://b/sets/blip2"),
        ("blip2:Salesforce/blip2", False, "blip2:Salesforce/blip2"),
        ("opencv:ns", False, "opencv:ns"),
        ("./clip", False, "s3://b/sets/clip"),
        ("openai/clip", False, "openai/clip"),
        ("embedded", False, "embedded"),
    ],
)
def test_an_address_is_below_a_folder_unless_it_says_more_or_is_none(address: str, sure: bool, found: str) -> None:
    assert below(address, "s3://b/sets/", sure) == found
    assert below(address, "/sets", sure) == found.replace("s3://b/sets", "/sets").replace("s3://b/coco", "/coco")
    assert "".join(parted(address)) == address


def test_all_that_a_source_names_is_below_its_file() -> None:
    text = """
    instructions: mine.jsonl
    sources:
      - {name: r, path: pc, split: train, make: [replace], exemplars: e, inpainter: "lama:l.pt", features: ./f,
         painter: "paint-by-example:./p", captioner: "blip2:./b"}
      - {name: p, path: prompts, split: train, make: [edit], model: sd, clip: openai/clip}
    """
    found = sources_of(text, "s.yaml").below("/x").model_dump()
    told = {str(v) for source in found["sources"] for v in source.values()} | {found["instructions"]}
    assert {"/x/mine.jsonl", "/x/pc", "/x/e", "lama:/x/l.pt", "/x/f", "paint-by-example:/x/p", "blip2:/x/b"} <= told
    assert {"/x/prompts", "/x/sd", "openai/clip"} <= told


def test_the_papers_file_names_each_of_its_data_sets_with_its_weight_and_where_it_lies() -> None:
    paper = packaged("paper")
    tops = set(re.findall(r"^    ([\w.-]+)/(?: +#.*)?$", DOCS.read_text(), re.MULTILINE))
    for source in paper.sources:
        assert isinstance(source, DataSet)
        reader = readers()[source.dataset or ""]
        assert source.weight == (1 if isinstance(source, Synthesis) else reader.weight), source.name
        assert source.path.partition("/")[0] in tops | {"requests"}, source.name
    mixed = {reader.name for reader in readers().values() if reader.weight}
    assert {source.dataset for source in paper.sources if isinstance(source, DataSet)} == mixed | {
        "PhraseCut",
        "Open Images",
    }
    assert {make for source in paper.sources if isinstance(source, Synthesis) for make in source.make} == {
        *("remove", "add", "replace")
    }


def test_sources_are_left_out_by_name() -> None:
    paper = packaged("paper")
    assert len(paper.without(["aic", "swaps"]).sources) == len(paper.sources) - 2
    with pytest.raises(ConfigError, match="no source people to leave out; there are coco, crowdpose"):
        paper.without(["people"])
    with pytest.raises(ConfigError, match="every source is left out"):
        paper.without([source.name for source in paper.sources])


def test_a_data_set_that_is_another_than_the_file_says_is_refused_by_name(tmp_path: Path) -> None:
    folder = published.gopro(tmp_path / "gopro")
    source = DataSet(name="s", path=str(folder), split="train", dataset="REDS")
    with pytest.raises(DataError, match="gopro is not REDS"):
        walker(source)
    with pytest.raises(ConfigError, match="no data set 'Reds' is known here; choose one of ADE20K-150, "):
        walker(source.model_copy(update={"dataset": "Reds"}))
    assert walker(source.model_copy(update={"dataset": "GoPro"})).name == "GoPro"
