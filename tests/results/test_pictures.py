"""A picture for each group, up to a limit that is named; nothing is dropped silently."""

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lora_jax.results import Report, pictures
from lora_jax.results.figure_style import COLORS, color_indices
from lora_jax.results.grouping import groups, short_name
from lora_jax.results.report import markdown

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


def groups_of(*datasets):
    rows = []
    for number, data in enumerate(datasets):
        config = {"data": data, "model": "m", "seed": 0}
        rows.append({"key": str(number), "config": config})
    return groups(rows, axes=("seed",))


def page(*datasets, draw=lambda item: Figure()):
    parts = groups_of(*datasets)
    fields = pictures.of_groups(parts, parts, draw)
    return markdown(Report("T", None, [], **fields))


def test_each_group_has_a_picture_under_its_name():
    text = page("mnli", "sst2")
    assert text.index("*mnli, m*") < text.index("(figure.png)")
    assert text.index("(figure.png)") < text.index("*sst2, m*")
    assert text.index("*sst2, m*") < text.index("(figure_2.png)")


def test_one_group_needs_no_name():
    assert page("mnli") == "# T\n\n![T](figure.png)\n"


def test_groups_beyond_the_limit_are_named():
    names = [f"data{number}" for number in range(pictures.MAX_GROUPS + 2)]
    text = page(*names)
    assert len(PICTURE.findall(text)) == pictures.MAX_GROUPS
    assert f"Without a picture (of the first {pictures.MAX_GROUPS} groups" in text
    assert text.rstrip().endswith("data6, m; data7, m.")


def test_a_group_with_nothing_to_draw_is_named():
    def draw(group):
        return Figure() if group.settings["data"] == "mnli" else None

    assert "to draw): sst2, m." in page("mnli", "sst2", draw=draw)


@pytest.mark.parametrize(
    "folder", sorted(REFERENCE.glob("*/")), ids=lambda path: path.name
)
def test_a_page_shows_the_pictures_beside_it_and_the_index_all(folder):
    beside = {path.name for path in folder.glob("*.png")}
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert set(PICTURE.findall(text)) == beside
    index = (REFERENCE.parent / "README.md").read_text(encoding="utf-8")
    linked = set(PICTURE.findall(index))
    assert {f"reference/{folder.name}/{name}" for name in beside} <= linked


def test_a_name_has_one_color_in_all_pictures():
    alone = color_indices(["LoRA"])
    beside = color_indices(["full fine-tuning", "Adapter^H", "LoRA, rank 4"])
    assert alone["LoRA"] == beside["LoRA, rank 4"]
    assert len(set(beside.values())) == 3
    # A set of matrices is no beginning of another one.
    sets = color_indices(["query,value", "query", "query,key"])
    assert len(set(sets.values())) == 3


def test_labels_of_one_picture_have_different_colors():
    labels = ["LoRA, lr 0.1", "LoRA, lr 0.2", "mine", "full fine-tuning"]
    assert len(set(color_indices(labels).values())) == 4
    many = color_indices([f"label {number}" for number in range(20)])
    assert max(many.values()) < len(COLORS)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("/home/me/reviews.csv", "reviews.csv"),
        ("./mine/pairs.csv", "pairs.csv"),
        ("mine/pairs.csv", "pairs.csv"),
        ("/models/small/", "small"),
        ("C:\\models\\small.gguf", "small.gguf"),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        ("minilm-l6", "minilm-l6"),
    ],
)
def test_a_path_has_its_last_name(value, name):
    assert short_name(value) == name


def test_two_files_of_one_name_are_told_apart_without_their_paths():
    first, second = groups_of("/a/one/x.csv", "/a/two/x.csv")
    assert {first.name, second.name} == {
        "x.csv, m · data in one",
        "x.csv, m · data in two",
    }
