"""What the library's page says works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import published
import pytest

PAGE = Path(__file__).parents[2] / "model/README.md"


@pytest.mark.xdist_group("training in the tests' own process")
@pytest.mark.usefixtures("alone")
def test_the_page_trains_on_a_folder_of_ones_own_and_edits_with_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    train, edit = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([text for text in train.splitlines() if text]) == 5
    published.own_triplets(tmp_path / "mine", published.own_line(1), published.own_line(2))
    monkeypatch.chdir(tmp_path)
    names = {"photo": np.full((48, 64, 3), 90, np.uint8)}
    exec(train.replace('recipe("train")', 'recipe("smoke")') + edit, names)  # four steps in place of sixty
    assert names["edited"].shape == (48, 64, 3)
