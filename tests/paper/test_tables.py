"""The published tables: all shipped files are sound, and damage is reported."""

import math
import shutil
from pathlib import Path

import pytest

from lora_jax import paper
from lora_jax.paper import tables


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy that may be damaged, without the large figures."""
    folder = tmp_path / "paper_tables"
    shutil.copytree(
        paper.FOLDER,
        folder,
        ignore=shutil.ignore_patterns("figures"),
        copy_function=shutil.copyfile,
    )
    return folder


def damage(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_all_shipped_tables_are_sound():
    paper.validate()


def test_every_table_reads_with_its_declared_columns_and_a_source():
    for name, columns in paper.schema().items():
        assert columns["source"] == "source"
        assert set(columns.values()) <= {
            "text",
            "number",
            "optional",
            "mixed",
            "source",
        }
        if name.startswith("figures/"):
            continue
        table = paper.table(name)
        assert list(table)[: len(columns)] == list(columns)
        assert len(table) > 0


def test_rank_table_has_the_papers_numbers():
    table = paper.table("lora_table6_rank")
    rank = table.set_index(["dataset", "weight_type", "r"])["value"].to_dict()
    assert rank["WikiSQL", "Wq,Wv", 4] == 73.7
    assert rank["MultiNLI", "Wq,Wv", 4] == 91.3
    assert rank["MultiNLI", "Wq", 8] == 90.7
    assert rank["WikiSQL", "Wq,Wv", 64] == 73.5


def test_printed_counts_follow_the_formula():
    for row in paper.table("lora_table6_rank").to_dict("records"):
        # 2 d r for each matrix of each of 96 layers (section 5.1).
        matrices = row["weight_type"].count("W")
        assert row["trainable_params_formula"] == matrices * 96 * 2 * 12288 * row["r"]


def test_amplification_table_has_the_papers_numbers():
    table = paper.table("lora_table7_amplification")
    value = table.set_index(["quantity", "subspace_from", "r"])["value"].to_dict()
    assert value["amplification ||dW||_F/||U^T W V^T||_F", "Delta W_q", 4] == 21.5
    assert value["||U^T W_q V^T||_F", "W_q", 64] == 37.71
    # The norm of W_q has no rank.
    assert table["r"].isna().sum() == 1


def test_figure_3_reads_as_its_colors():
    table = paper.table("figures/lora_fig3_phi_r8_r64_layer48")
    phi = table.set_index(["matrix", "i_r8", "j_r64"])["phi"].to_dict()
    assert phi["dW_q", 1, 1] == pytest.approx(0.404, abs=0.001)
    assert phi["dW_v", 1, 1] == pytest.approx(0.436, abs=0.001)


def test_nf4_is_the_published_code():
    values = paper.table("qlora_nf4_values")["value"].tolist()
    assert len(values) == 16
    assert (values[0], values[7], values[15]) == (-1, 0, 1)


def test_words_stay_words_and_numbers_become_numbers():
    table = paper.table("lora_table10_deberta_hparams")
    value = table.set_index(["dataset", "hparam"])["value"].to_dict()
    assert value["MNLI", "optimizer"] == "AdamW"
    assert value["MNLI", "learning_rate"] == 1e-4
    std = paper.table("lora_table13_dart")["std"].tolist()
    assert "<0.01" in std
    assert 0.2 in std
    assert "" not in std


def test_a_longer_named_value_is_also_value():
    table = paper.table("qlora_table4_mmlu_datatypes")
    assert table["value"].tolist() == table["value_5shot_MMLU"].tolist()


def test_a_comparison_names_both_its_sources():
    source = paper.table("lora_paper_vs_repo_hparams")["source"]
    assert source.unique().tolist() == [
        "arXiv:2106.09685v2 p.19; arXiv:2106.09685v2 p.20; "
        "github:microsoft/LoRA:examples"
    ]


def test_claims_by_id():
    value = paper.claims()["value"].to_dict()
    assert value["L18"] == 21.5
    assert value["L19"] == "about 2"
    assert math.isnan(value["L22"])


def test_unknown_table_lists_the_near_ones():
    message = r"no published table 'lora_table6'; did you mean .*lora_table6_rank.*"
    with pytest.raises(ValueError, match=rf"{message}there are"):
        paper.table("lora_table6")


def test_all_damage_is_reported_together(copy: Path):
    damage(copy / "lora_table6_rank.csv", "73.4,0.5", "73.x,0.5")
    source = ",arXiv:2106.09685v2 p.10"
    damage(copy / "lora_table5_weight_types.csv", source, ",somewhere")
    damage(copy / "qlora_table2_datatype_ppl.csv", "data_type", "datatype")
    damage(copy / "qlora_nf4_values.csv", "0,-1.0,", "0,-1.0,,")
    damage(copy / "claims.csv", "\nL2,", "\nL1,")
    (copy / "qlora_table1_elo.csv").unlink()
    (copy / "qlora_table3_glue_sni.csv").write_bytes(b"table,m\xe9thod\n")
    (copy / "extra.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match="published tables are damaged") as caught:
        paper.validate(copy)
    text = str(caught.value)
    for problem in (
        "lora_table6_rank.csv line 7: value: expected a number, got '73.x'",
        "lora_table5_weight_types.csv line 2: source: expected arXiv:2106.09685v2 p.N",
        "got 'somewhere'",
        "qlora_table2_datatype_ppl.csv line 1: expected columns table,data_type,",
        "qlora_nf4_values.csv line 2: expected 3 cells, got 4",
        "claims.csv: expected each id once, got 'L1' again",
        "qlora_table1_elo.csv: missing",
        "qlora_table3_glue_sni.csv: expected CSV in UTF-8",
        "extra.csv: unknown file",
    ):
        assert problem in text
    assert "lora_table7" not in text


def test_a_damaged_table_is_not_handed_out(copy: Path):
    damage(copy / "lora_table6_rank.csv", "73.4,0.5", "nan,0.5")
    with pytest.raises(ValueError, match="line 7: value: expected a number, got 'nan'"):
        paper.table("lora_table6_rank", folder=copy)


def test_without_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "FOLDER", tmp_path / "paper_tables")
    message = r"lie in the checkout.*pip install -e \."
    with pytest.raises(FileNotFoundError, match=message):
        paper.table("lora_table6_rank")
