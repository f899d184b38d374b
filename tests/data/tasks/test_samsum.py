"""SAMSum: dialogues and summaries from the official JSON files."""

from lora_jax import data
from tests.data.files import message, pairs, write

CHAT = {
    "id": "1",
    "summary": "Amanda bakes.",
    "dialogue": "Amanda: Hi!\r\nJerry: Sure!\r\n",
}
BLANK = {"id": "2", "summary": "Nothing.", "dialogue": ""}


def samsum_files(folder):
    for name in ("train", "val", "test"):
        write(folder / f"{name}.json", [CHAT, BLANK])
    return folder


def test_lines_end_alike_and_blank_dialogues_are_left_out(tmp_path):
    task = data.load("samsum", data_dir=samsum_files(tmp_path))
    expected = [("Amanda: Hi!\nJerry: Sure!", "Amanda bakes.")]
    assert pairs(task.splits["validation"]) == expected
    assert task.metrics == ("rouge_1", "rouge_2", "rouge_l")
    assert task.generates
    assert "train.json: 1 of 2 entries are left out" in task.notes[0]


def test_misfits_and_missing_files(tmp_path):
    samsum_files(tmp_path)
    write(tmp_path / "val.json", [{"id": "1", "summary": None, "dialogue": "x"}])
    text = message(data.load, "samsum", data_dir=tmp_path)
    assert "val.json, entry 1: summary: expected text, got None" in text
    (tmp_path / "val.json").unlink()
    text = message(data.load, "samsum", data_dir=tmp_path, error=FileNotFoundError)
    assert "expected val.json, got test.json, train.json" in text
