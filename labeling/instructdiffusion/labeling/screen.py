"""What an annotator sees of a prompt, and how the answers on that screen are written and read.

The instruction on top, then one row: the source and its edits, numbered. One key picks the best edit or none, others
tick what is wrong with an edit. Edits go by their place on the screen; which edit is where, the round knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from instructdiffusion.model.errors import ConfigError, DataError

MOST = 6  # edits that fit in a row, with keys of their own
NONE = "none"
DEFECTS = {
    "artifact": "Visible artifact",
    "wrong_object": "Wrong object",
    "not_followed": "Instruction not followed",
    "over_edit": "Changed too much",
}
KEYS = ("qwer", "asdf", "zxcv", "uiop", "hjkl", "bnm,")  # of the defects, a line an edit
SOURCE = "source_image"  # under `source` the page would put the whole task
HINT = "Press the number of the best edit, or 0 where none is acceptable. Ctrl+Enter submits, Ctrl+Space skips."

# The page sanitises style sheets: a child selector (>) would void its rule. The first two rules free a quarter of the
# width, which an empty panel takes; their classes belong to the server's version.
STYLE = """
    .lsf-sidepanels__wrapper { display: none !important; }
    .lsf-sidepanels { padding: 0 !important; }
    .ie-ask { font-size: 20px; font-weight: 600; border-left: 5px solid #3b82f6; padding: 2px 12px; margin-bottom: 8px }
    .ie-best { display: flex; align-items: center; gap: 16px; margin-bottom: 4px; }
    .ie-row { display: grid; gap: 12px; align-items: start; grid-template-columns: repeat(COLUMNS, minmax(0, 1fr)); }
    .ie-cell { min-width: 0; border: 3px solid transparent; border-radius: 8px; padding: 4px; }
    .ie-cell .lsf-toolbar { display: none !important; }"""
CHOSEN = ".ie:has(.ie-best .lsf-choice:nth-child({0}) input:checked) .ie-{0} {{ border-color: #16a34a; }}"
PICTURE = '<Image name="{0}" value="${1}" zoomControl="false" rotateControl="false" selectionControl="false"/>'


def config(count: int) -> str:
    """The labeling configuration for prompts of `count` edits, as Label Studio's XML.

    Raises:
        ConfigError: so many don't fit on the screen.
    """
    if not 1 <= count <= MOST:
        raise ConfigError(f"{count} edits of a prompt can't be ranked on one screen; propose 1 to {MOST} of each")
    places = range(1, count + 1)
    chosen = "\n    ".join(CHOSEN.format(place) for place in places)
    return f"""<View className="ie">
  <Style>{STYLE.replace("COLUMNS", str(max(count, 2) + 1))}
    {chosen}
  </Style>
  <View className="ie-ask"><Text name="instruction" value="$instruction" selectionEnabled="false"/></View>
  <View className="ie-best">
    <Header value="Best edit" size="5"/>
    <Choices name="best" toName="source" choice="single-radio" layout="inline"
             required="true" requiredMessage="Pick the best edit, or none.">
      {"".join(f'<Choice value="Edit {place}" alias="edit_{place}" hotkey="{place}"/>' for place in places)}
      <Choice value="None acceptable" alias="{NONE}" hotkey="0"/>
    </Choices>
  </View>
  <View className="ie-row">
    <View className="ie-cell"><Header value="Source" size="5"/>{PICTURE.format("source", SOURCE)}</View>
    {"".join(map(_cell, places))}
  </View>
</View>"""


def _cell(place: int) -> str:
    boxes = "".join(
        f'<Choice value="{text}" alias="{name}" hotkey="{key}"/>'
        for (name, text), key in zip(DEFECTS.items(), KEYS[place - 1], strict=True)
    )
    return f"""<View className="ie-cell ie-{place}">
      <Header value="Edit {place}" size="5"/>{PICTURE.format(f"edit_{place}", f"edit_{place}")}
      <Choices name="defects_{place}" toName="edit_{place}" choice="multiple" layout="vertical">{boxes}</Choices>
    </View>"""


def answer(best: str | None, shown: Sequence[str], defects: Mapping[str, Sequence[str]] | None = None) -> list[Any]:
    """An answer as the page sends it.

    Args:
        best: id of the best edit; None: no edit is acceptable.
        shown: ids of the edits in their places.
        defects: names of what is wrong, by edit id.
    """
    place = {edit: number for number, edit in enumerate(shown, 1)}
    ticked = [
        _choice(f"defects_{place[edit]}", f"edit_{place[edit]}", list(names)) for edit, names in (defects or {}).items()
    ]
    return [_choice("best", "source", [f"edit_{place[best]}" if best else NONE]), *ticked]


def _choice(name: str, of: str, chosen: list[str]) -> dict[str, Any]:
    return {"from_name": name, "to_name": of, "type": "choices", "origin": "manual", "value": {"choices": chosen}}


def read(result: Sequence[Any], shown: Sequence[str]) -> tuple[str | None, dict[str, tuple[str, ...]]]:
    """The best edit's id (None: no edit is acceptable) and the defects by edit id, of an answer of the page.

    Raises:
        DataError: it names no edit of these; the server takes any answer, whatever the screen offers.
    """
    try:
        chosen = {str(item["from_name"]): [str(c) for c in item["value"]["choices"]] for item in result}
    except (KeyError, TypeError) as error:
        raise DataError(f"it is not of this screen ({type(error).__name__})") from None
    places = {f"edit_{number}": edit for number, edit in enumerate(shown, 1)}
    best = chosen.pop("best", [])
    if len(best) != 1 or best[0] not in {NONE, *places}:
        raise DataError(f"it picks {best or 'nothing'}, not one of {len(shown)} edits or none")
    defects = {places.get(name.replace("defects_", "edit_"), ""): tuple(names) for name, names in chosen.items()}
    if "" in defects or not {name for names in defects.values() for name in names} <= DEFECTS.keys():
        raise DataError(f"it ticks defects that the screen does not have: {chosen}")
    return places.get(best[0]), defects
