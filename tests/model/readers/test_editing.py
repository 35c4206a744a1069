"""Edits as InstructPix2Pix, MagicBrush, GIER and GQA-Inpaint publish them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as Pillow
from pyarrow import parquet

from instructdiffusion.model.data.readers import EDIT, Reader, reader_for, readers
from instructdiffusion.model.data.readers import folders as archives
from instructdiffusion.model.data.readers.editing import kind_of
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.tasks import TASKS

PIXELS = (14, 10)  # width, height


def coded(gray: int, kind: str = "PNG") -> bytes:
    """A picture of one gray."""
    buffer = io.BytesIO()
    Pillow.new("RGB", PIXELS, (gray, gray, gray)).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, content: bytes | str | Any) -> None:
    """Write bytes, text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content))
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def prompt_files(edit: str = "make it winter", seeds: tuple[int, ...] = (111, 222)) -> dict[str, bytes]:
    """What is in the folder of one prompt."""
    said = {"input": "a lake", "edit": edit, "output": "a lake in winter"}
    lines = [json.dumps({"seed": s, "p2p_threshold": 0.5, "clip_sim_dir": 0.25, "clip_sim_image": 0.9}) for s in seeds]
    files = {"prompt.json": json.dumps(said).encode(), "metadata.jsonl": "\n".join(lines).encode()}
    for seed in seeds:
        files |= {f"{seed}_0.jpg": coded(50, "JPEG"), f"{seed}_1.jpg": coded(200, "JPEG")}
    return files


def pix2pix_zip(root: Path, more: dict[str, bytes] | None = None) -> Reader:
    root.mkdir(exist_ok=True)
    for shard in ("00", "01"):
        with zipfile.ZipFile(root / f"shard-{shard}.zip", "w") as file:
            for name, data in prompt_files().items():
                file.writestr(f"shard-{shard}/00000{shard}/{name}", data)
            for name, data in (more or {}).items():
                file.writestr(name, data)
    return readers()["InstructPix2Pix"]


def pix2pix_folder(root: Path) -> Reader:
    put(root / "seeds.json", [["0000000", ["111", "222"]]])
    for prompt in ("0000000", "0000001"):
        for name, data in prompt_files().items():
            put(root / prompt / name, data)
    return readers()["InstructPix2Pix"]


PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(path: Path, columns: dict[str, Any], group: int = 2) -> None:
    """Write a table as the Hub does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array(values, kind) for name, (kind, values) in columns.items()}
    parquet.write_table(pa.table(arrays), path, row_group_size=group)


def image(data: bytes | None) -> dict[str, Any]:
    return {"bytes": data, "path": "one.png"}


def magic(
    root: Path, texts: tuple[str | None, ...] = ("add a red hat", "now remove the dog", "turn it blue")
) -> Reader:
    count = len(texts)
    ids, turns = ["242679", "242679", "417"], [1, 2, 1]
    for split in ("train", "dev"):
        columns = {
            "img_id": (pa.string(), ids[:count]),
            "turn_index": (pa.int32(), turns[:count]),
            "source_img": (PICTURE, [image(coded(10 * i)) for i in range(count)]),
            "mask_img": (PICTURE, [image(coded(255))] * count),
            "instruction": (pa.string(), list(texts)),
            "target_img": (PICTURE, [image(coded(10 * i + 5)) for i in range(count)]),
        }
        table(root / f"data/{split}-00000-of-00001-0a1b.parquet", columns)
    return readers()["MagicBrush"]


TURNS = [
    {"input": "417-input.png", "mask": "417-mask1.png", "output": "417-output1.png", "instruction": "Add a cat"},
    {"input": "417-output1.png", "mask": "417-mask2.png", "output": "417-output2.png", "instruction": "Make it night"},
]
TEST_FILES = {
    "test/edit_turns.json": json.dumps(TURNS).encode(),
    **{f"test/images/417/417-{n}.png": coded(g) for n, g in (("input", 1), ("output1", 2), ("output2", 3))},
}


def magic_test_zip(root: Path) -> Reader:
    root.mkdir(exist_ok=True)
    with zipfile.ZipFile(root / "test.zip", "w") as file:
        for name, data in TEST_FILES.items():
            file.writestr(name, data)
    return readers()["MagicBrush"]


def magic_test_folder(root: Path) -> Reader:
    for name, data in TEST_FILES.items():
        put(root / name, data)
    return readers()["MagicBrush"]


PAIR = {
    "input": "lHT34_lHT34.jpg",
    "output": "lHT34_jwtyK.jpg",
    "request": "Two focus points...",
    "dataset": "zhopped",
    "operator": {"brightness": {"local": False, "ids": []}},
    "expert_summary": ["turn the image black and white", "grayscale it"],
    "amateur_summary": ["turn the image black and white", ""],
}


def gier(root: Path, pairs: Any = (PAIR,)) -> Reader:
    put(root / "GIER.json", list(pairs))
    put(root / "images/lHT34_lHT34.jpg", coded(20, "JPEG"))
    put(root / "images/lHT34_jwtyK.jpg", coded(90, "JPEG"))
    return readers()["GIER"]


def scene(*objects: tuple[str, str, str], painted: bool = True) -> dict[str, Any]:
    """A scene graph of (number, name, position)."""
    return {
        "width": 14,
        "height": 10,
        "objects": {
            n: {"name": name, "attributes": [], "relations": [], "bbox": [0, 0, 5, 5], "bidirected": painted}
            for n, name, _ in objects
        },
        "image_relative_positions": {n: f"to the {side}" for n, _, side in objects},
    }


def inpaint(root: Path, scenes: Any, said: Any = None) -> Reader:
    put(root / "train_scenes.json", scenes)
    put(root / "test_scenes.json", scenes)
    if said is not None:
        put(root / "test_instructions.json", said)
    for number, graph in scenes.items():
        put(root / f"images/{number}.jpg", coded(30, "JPEG"))
        for thing in graph["objects"]:
            put(root / f"images_inpainted/{number}/{thing}.jpg", coded(40, "JPEG"))
            put(root / f"masks/{number}/{thing}.jpg", coded(255, "JPEG"))
    return readers()["GQA-Inpaint"]


def inpaint_one(root: Path) -> Reader:
    return inpaint(root, {"2370799": scene(("101", "dog", "left"))})


EVERY = pytest.mark.parametrize(
    "make", [pix2pix_zip, pix2pix_folder, magic, magic_test_zip, magic_test_folder, gier, inpaint_one]
)


@EVERY
def test_a_data_set_is_recognised_and_its_edits_load(make: Any, tmp_path: Path) -> None:
    reader = make(tmp_path)
    assert reader_for(tmp_path) is reader
    for split in reader.splits(tmp_path):
        found = list(reader.examples(tmp_path, split))
        counts = reader.counts(tmp_path, split)
        assert (counts.examples, dict(counts.skipped)) == (len(found), {})
        assert len({example.key for example in found}) == len(found) > 0
        for example in found:
            source, target, label = example.loaded()
            assert source.shape == (10, 14, 3)
            assert target is label["target"]
            assert all(example.instructions)
            if example.task != EDIT:
                TASKS[example.task].check(label)


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (pix2pix_zip, [f"train-shard-0{s}-000000{s}-{seed}" for s in (0, 1) for seed in (111, 222)]),
        (pix2pix_folder, [f"train-000000{p}-{seed}" for p in (0, 1) for seed in (111, 222)]),
    ],
)
def test_instructpix2pix_gives_one_example_a_seed(make: Any, keys: list[str], tmp_path: Path) -> None:
    found = list(make(tmp_path).examples(tmp_path, "train"))
    assert [example.key for example in found] == keys
    first = found[0]
    assert first.instructions == ("make it winter",)
    assert first.facts["caption"] == "a lake"
    assert first.facts["caption_after"] == "a lake in winter"
    assert first.facts["clip_sim_dir"] == "0.25"
    assert (first.source().mean(), first.loaded()[2]["target"].mean()) == (50, 200)


def test_instructpix2pix_is_read_from_the_hubs_tables_too(tmp_path: Path) -> None:
    columns = {
        "original_prompt": (pa.string(), ["a lake"]),
        "original_image": (PICTURE, [image(coded(1))]),
        "edit_prompt": (pa.string(), ["make it winter"]),
        "edited_prompt": (pa.string(), ["a lake in winter"]),
        "edited_image": (PICTURE, [image(coded(2))]),
    }
    table(tmp_path / "data/train-00000-of-00262-0a1b.parquet", columns)
    reader = reader_for(tmp_path)
    (only,) = reader.examples(tmp_path, "train")
    assert reader.name == "InstructPix2Pix"
    assert (only.instructions, only.facts["caption"]) == (("make it winter",), "a lake")
    assert (only.source().max(), only.loaded()[2]["target"].max()) == (1, 2)


def test_instructpix2pix_skips_what_lacks_a_picture_or_words(tmp_path: Path) -> None:
    reader = pix2pix_folder(tmp_path)
    (tmp_path / "0000000/222_1.jpg").unlink()
    put(tmp_path / "0000001/prompt.json", b'{"edit": "caf\xe9"}')
    counts = reader.counts(tmp_path, "train")
    assert counts.examples == 1
    assert dict(counts.skipped) == {"picture: missing on disk": 1, "prompt.json edit: empty or not UTF-8": 2}


def test_an_archive_that_leads_out_of_itself_is_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("../evil.txt", "/etc/evil", "a/../../evil", "C:\\evil", "..\\evil")):
        root = tmp_path / str(number)
        reader = pix2pix_zip(root, {name: b"x"})
        with pytest.raises(DataError, match=r"shard-00.zip names a file outside of itself"):
            list(reader.examples(root, "train"))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    reader = pix2pix_zip(tmp_path)
    path = tmp_path / "shard-01.zip"
    path.write_bytes(path.read_bytes()[:-40])
    found = reader.examples(tmp_path, "train")
    assert [next(found).source().shape for _ in range(2)] == [(10, 14, 3)] * 2  # the first shard is whole
    with pytest.raises(DataError, match=r"shard-01.zip is no zip file, or was cut short"):
        next(found)


def test_a_damaged_file_in_an_archive_is_named(tmp_path: Path) -> None:
    reader = pix2pix_zip(tmp_path)
    path = tmp_path / "shard-00.zip"
    data, picture = path.read_bytes(), prompt_files()["111_0.jpg"]
    assert picture in data
    path.write_bytes(data.replace(picture, picture[:-9] + b"x" * 9, 1))
    with pytest.raises(DataError, match=r"shard-00.zip: shard-00/0000000/111_0.jpg is damaged"):
        next(reader.examples(tmp_path, "train")).source()


def test_a_bomb_in_an_archive_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 100)  # the limit; one at the real one takes a quarter of a gigabyte
    with pytest.raises(DataError, match="bytes when unpacked"):
        next(pix2pix_zip(tmp_path).examples(tmp_path, "train")).source()


def test_magicbrush_gives_one_example_a_turn(tmp_path: Path) -> None:
    first, second, third = magic(tmp_path).examples(tmp_path, "train")
    assert [e.key for e in (first, second, third)] == ["train-242679-1", "train-242679-2", "train-417-1"]
    assert first.picture == second.picture == "coco/000000242679"
    assert (first.facts, second.facts["turn"]) == ({"kind": "add", "turn": "1"}, "2")
    assert (second.source().max(), second.loaded()[2]["target"].max()) == (10, 15)
    assert readers()["MagicBrush"].counts(tmp_path, "train").pictures == 2


def test_counting_a_table_finds_what_reading_it_finds(tmp_path: Path) -> None:
    reader = magic(tmp_path, ("add a hat", "  ", None))
    path = tmp_path / "data/dev-00000-of-00001-0a1b.parquet"
    columns = {name: parquet.read_table(path).column(name).to_pylist() for name in parquet.read_schema(path).names}
    columns["target_img"][0]["bytes"] = None  # as where a table was saved without its pictures
    kinds = dict(zip(parquet.read_schema(path).names, parquet.read_schema(path).types, strict=True))
    table(path, {name: (kinds[name], values) for name, values in columns.items()})
    for split, wanted in (("train", (1, {"instruction: empty or not UTF-8": 2})), ("dev", (0, None))):
        counts = reader.counts(tmp_path, split)
        assert counts.examples == len(list(reader.examples(tmp_path, split))) == wanted[0]
        if wanted[1]:
            assert dict(counts.skipped) == wanted[1]
    assert reader.counts(tmp_path, "dev").skipped["picture: no bytes in the table"] == 1


def test_a_turn_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    reader = magic(tmp_path)
    path = tmp_path / "data/train-00000-of-00001-0a1b.parquet"
    (tmp_path / "data/train-00001-of-00001-0a1b.parquet").write_bytes(path.read_bytes())
    counts = reader.counts(tmp_path, "train")
    assert (counts.examples, dict(counts.skipped)) == (3, {"key: given twice": 3})


@pytest.mark.parametrize("make", [magic_test_zip, magic_test_folder])
def test_magicbrushs_test_split_is_read_from_zip_and_from_folder(make: Any, tmp_path: Path) -> None:
    first, second = make(tmp_path).examples(tmp_path, "test")
    assert (first.key, second.key) == ("test-417-output1", "test-417-output2")
    assert first.picture == second.picture == "coco/000000000417"
    assert (first.facts["turn"], second.facts["turn"]) == ("1", "2")
    assert [side.max() for side in second.loaded()[:2] if side is not None] == [2, 3]


def test_magicbrushs_test_split_skips_what_is_missing(tmp_path: Path) -> None:
    reader = magic_test_folder(tmp_path)
    (tmp_path / "test/images/417/417-output2.png").unlink()
    put(tmp_path / "test/edit_turns.json", [*TURNS, TURNS[0], {**TURNS[0], "output": "417-output9.png"}, 7])
    counts = reader.counts(tmp_path, "test")
    assert counts.examples == 1
    assert sum(counts.skipped.values()) == 4


def test_a_damaged_or_incomplete_table_is_named(tmp_path: Path) -> None:
    reader = magic(tmp_path)
    path = tmp_path / "data/train-00000-of-00001-0a1b.parquet"
    names = [name for name in parquet.read_schema(path).names if name != "instruction"]
    parquet.write_table(parquet.read_table(path, columns=names), path)
    with pytest.raises(DataError, match=r"train-00000.*: no column 'instruction'"):
        list(reader.examples(tmp_path, "train"))
    path.write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match=r"train-00000.* is no Parquet file, or was cut short"):
        list(reader.examples(tmp_path, "train"))


def test_a_table_of_any_length_is_read_in_the_same_memory(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        noise = np.random.default_rng(0)
        pictures = [image(noise.bytes(100_000)) for _ in range(count)]
        columns = {
            "img_id": (pa.string(), [str(n) for n in range(count)]),
            "turn_index": (pa.int32(), [1] * count),
            "instruction": (pa.string(), ["make it blue"] * count),
            "source_img": (PICTURE, pictures),
            "target_img": (PICTURE, pictures[::-1]),
        }
        table(tmp_path / f"{count}/data/train-00000-of-00001-0a1b.parquet", columns, group=20)
        del columns, pictures
        before, most, seen = pa.total_allocated_bytes(), 0, 0
        for _ in readers()["MagicBrush"].examples(tmp_path / str(count), "train"):
            seen, most = seen + 1, max(most, pa.total_allocated_bytes() - before)
        assert seen == count
        return most

    few, many = peak(40), peak(240)  # 8 MB and 48 MB of pictures
    assert many < few + 1_000_000


def test_gier_gives_a_pair_all_that_was_said_of_it(tmp_path: Path) -> None:
    (only,) = gier(tmp_path).examples(tmp_path, "train")
    assert only.instructions == ("turn the image black and white", "grayscale it")
    assert (only.key, only.picture, only.task) == ("train-lHT34_jwtyK", "gier/lHT34_lHT34", EDIT)
    assert only.facts == {"from": "zhopped"}


def test_gier_is_divided_as_its_authors_do_where_their_lists_are_there(tmp_path: Path) -> None:
    reader = gier(tmp_path)
    put(tmp_path / "splits/val_sess_3.json", [PAIR])
    put(tmp_path / "splits/train_sess_3.json", [])
    assert reader.splits(tmp_path) == ("train", "val")
    assert [len(list(reader.examples(tmp_path, s))) for s in ("train", "val")] == [0, 1]


def test_gier_says_why_pairs_are_left_out(tmp_path: Path) -> None:
    pairs = [
        PAIR,
        PAIR,
        {**PAIR, "output": "gone.jpg"},
        {**PAIR, "output": "../../secret.jpg"},
        {**PAIR, "output": 3},
        {**PAIR, "expert_summary": [], "amateur_summary": None},
    ]
    counts = gier(tmp_path, pairs).counts(tmp_path, "train")
    assert counts.examples == 1
    assert dict(counts.skipped) == {
        "expert_summary, amateur_summary: empty or not UTF-8": 1,
        "input, output: no names of files": 2,
        "key: given twice": 1,
        "picture: missing on disk": 1,
    }


def test_a_list_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    reader = gier(tmp_path)
    (tmp_path / "GIER.json").write_bytes(b'[{"input": "caf\xe9.jpg"}]')
    with pytest.raises(DataError, match=r"GIER.json is no JSON in UTF-8"):
        list(reader.examples(tmp_path, "train"))


def test_gqa_inpaint_asks_for_the_one_that_is_meant(tmp_path: Path) -> None:
    scenes = {
        "1": scene(("10", "dog", "left"), ("11", "cup", "left"), ("12", "cup", "right")),
        "2": scene(("20", "car", "left"), ("21", "car", "left")),
        "3": scene(("30", "bird", "left"), ("31", "bird", "center"), ("32", "bird", "right")),
        "4": scene(("40", "tree", "left"), painted=False),
    }
    reader = inpaint(tmp_path, scenes)
    found = list(reader.examples(tmp_path, "train"))
    assert {example.key: example.instructions for example in found} == {
        "train-1-10": ("remove the dog",),
        "train-1-11": ("remove the cup at the left",),
        "train-1-12": ("remove the cup at the right",),
    }
    assert found[0].picture == "visual-genome/1"
    assert found[1].label["words"] == {"phrase": "cup at the left"}
    assert found[0].loaded()[2]["mask"].all()
    assert dict(reader.counts(tmp_path, "train").skipped) == {
        "image_relative_positions: two alike on one side": 2,
        "name: more than two alike in the picture": 3,
    }


def test_gqa_inpaints_test_split_has_fixed_instructions(tmp_path: Path) -> None:
    scenes = {"7": scene(("70", "dog", "left"), ("71", "cup", "left"))}
    reader = inpaint(tmp_path, scenes, {"i7-o70": "remove the brown dog on the sofa"})
    (only,) = reader.examples(tmp_path, "test")
    assert only.instructions == ("remove the brown dog on the sofa",)
    assert only.label["words"] == {"phrase": "brown dog on the sofa"}
    assert dict(reader.counts(tmp_path, "test").skipped) == {"test_instructions.json: no instruction": 1}


def test_an_empty_mask_is_named_when_loaded(tmp_path: Path) -> None:
    reader = inpaint_one(tmp_path)
    put(tmp_path / "masks/2370799/101.jpg", coded(0, "JPEG"))
    with pytest.raises(DataError, match=r"101.jpg is empty"):
        next(reader.examples(tmp_path, "train")).loaded()


def test_scenes_that_are_cut_short_are_named(tmp_path: Path) -> None:
    reader = inpaint_one(tmp_path)
    path = tmp_path / "train_scenes.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match=r"train_scenes.json is no JSON in UTF-8, or was cut short"):
        list(reader.examples(tmp_path, "train"))


@pytest.mark.parametrize(
    ("instruction", "kind"),
    [
        ("Remove the dog on the left", "remove"),
        ("please get rid of his glasses", "remove"),
        ("Add a hat to the man", "add"),
        ("replace the apple with an orange", "replace"),
        ("remove the noise", None),
        ("add a little more contrast", None),
        ("Add some blur", None),
        ("make it a Monet", None),
        ("remove yellow from the whites", None),
        ("replace him", None),
    ],
)
def test_the_verb_tells_the_kind_of_an_edit_only_when_it_is_certain(instruction: str, kind: str | None) -> None:
    assert kind_of(instruction) == kind
