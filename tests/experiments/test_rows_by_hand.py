"""Rows that somebody edited: one sentence with file, line and field, and no page."""

import json
from copy import deepcopy

import pytest

from tests.experiments.test_experiments import REFERENCE, WITH_ROWS, experiment

WRONG = [["no field is of this kind"]]


@pytest.fixture(scope="module", params=WITH_ROWS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def row(name):
    with open(REFERENCE / f"{name}.jsonl", encoding="utf-8") as file:
        return json.loads(file.readline())


def ways(row, path):
    """The places that a path with wildcards has in a row, the first of each list."""
    places = [()]
    for step in path.split("."):
        longer = []
        for place in places:
            value = part(row, place)
            names = list(value) if step == "{}" else [0 if step == "[]" else step]
            longer += [(*place, item) for item in names]
        places = longer
    return places


def part(row, place):
    for step in place:
        row = row[step]
    return row


def problem(name, row, folder):
    """The one message on a file whose second line is the row."""
    path = folder / f"{name}.jsonl"
    content = f"\n{json.dumps(row)}\n"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"line 2 is not a row") as caught:
        experiment(name).rows(folder)
    assert path.read_text() == content
    message = str(caught.value)
    assert message.startswith(str(path))
    return message


def test_a_field_that_the_page_needs_is_missed_and_is_of_its_kind(name, row, tmp_path):
    needs = experiment(name).needs(row)
    assert needs
    for path in needs:
        for place in ways(row, path):
            *before, last = place
            wrong = deepcopy(row)
            part(wrong, before)[last] = deepcopy(WRONG)
            assert place[0] in problem(name, wrong, tmp_path)
            # An object of any names may be smaller, as one of other metrics.
            if path[-1] not in "}]" and place[0] != "metrics":
                missing = deepcopy(row)
                del part(missing, before)[last]
                assert "expected" in problem(name, missing, tmp_path)


@pytest.mark.parametrize("field", ["provenance", "config", "metrics"])
def test_no_row_lacks_where_it_is_from(name, row, tmp_path, field):
    assert field in problem(name, {k: row[k] for k in row if k != field}, tmp_path)


def test_a_wrong_row_stops_the_script_before_anything_else(name, row, tmp_path, capsys):
    problem(name, {**row, "provenance": []}, tmp_path)
    with pytest.raises(ValueError, match="line 2 is not a row of this experiment"):
        experiment(name).main(["--out", str(tmp_path)])
    assert capsys.readouterr().out == ""


def test_a_row_from_outside_of_a_checkout_is_sound(name, row, tmp_path):
    origin = {**row["provenance"], "commit": "unknown", "dirty": None}
    path = tmp_path / f"{name}.jsonl"
    path.write_text(json.dumps({**row, "provenance": origin}))
    assert len(experiment(name).rows(tmp_path)) == 1


def test_a_setting_that_page_and_run_refuse_is_told_once(tmp_path):
    rows = (REFERENCE / "rank_sweep.jsonl").read_text(encoding="utf-8")
    row = json.loads(rows.splitlines()[0])
    row["config"]["targets"] = ["query"]
    message = problem("rank_sweep", row, tmp_path)
    assert message.count("config.targets") == 1
    assert "config.targets: expected text that is not empty, got ['query']" in message
