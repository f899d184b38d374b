"""LoRA's figures as read from their colors and lines; how exactly is in the CSV files.

The heat maps (Figures 3, 4, 6, 7 and 8) show the similarity phi(i, j) of the space of
the first i singular directions of one matrix and of the first j of another, from 0 to
1 (section 7.2). All are of GPT-3 175B: `LAYERS` layers, `WIDTH` wide, and
`MIDDLE_LAYER` is the one the body of the paper shows. Layers are counted from 1.
"""

import functools

import numpy as np
import pandas as pd

from lora_jax.paper.tables import rows_where, table

# The sizes of GPT-3 175B (Brown et al. 2020, Table 2.1).
WIDTH = 12288
LAYERS = 96
MIDDLE_LAYER = 48
FIGURE8_ROWS = (400, 1273)  # the directions i of W that Figure 8 shows

# The name of a matrix in the files, then as the figures print it.
_MATRICES = {
    "dW_q": "ΔWq",
    "dW_v": "ΔWv",
    "random_gaussian": "random",
}
# What Figure 8 compares W's directions with, from left to right.
_RANKS = {
    "A_r=4": "r = 4",
    "A_r=8": "r = 8",
    "A_r=64": "r = 64",
    "A_rand": "random",
}


def figure3_and_6() -> dict[str, dict[int, np.ndarray]]:
    """Return phi between ranks 8 and 64, by matrix (ΔWq, ΔWv) and layer: [8, 64].

    Layer 48 is Figure 3's, layers 1, 32, 64 and 96 are Figure 6's. Cells with j < i
    are missing (NaN): the paper leaves them white.
    """
    return _maps(
        "figures/lora_fig3_phi_r8_r64_layer48",
        "figures/lora_fig6_phi_r8_r64_layers1_32_64_96",
    )


def figure4_and_7() -> dict[str, dict[int, np.ndarray]]:
    """Return phi between two seeds at rank 64, by matrix and layer: [64, 64].

    The matrices are ΔWq, ΔWv and random. Layer 48 is Figure 4's, layers 1, 32, 64 and
    96 are Figure 7's.
    """
    return _maps(
        "figures/lora_fig4_phi_two_seeds_r64_layer48",
        "figures/lora_fig7_phi_two_seeds_r64_layers1_32_64_96",
    )


def figure5() -> pd.DataFrame:
    """Return Figure 5, the slow-down by adapter layers in per cent.

    Columns: adapter, seq_len, batch_size, r, slowdown_percent and the error of reading.
    """
    return table("figures/lora_fig5_adapter_slowdown")


def figure8() -> dict[str, np.ndarray]:
    """Return phi of Wq's directions and ΔWq's at layer 48: [i, j], j up to 4.

    One map for each of r = 4, r = 8, r = 64 and random; i goes from 400 to 1,273.
    """
    published = table("figures/lora_fig8_phi_Wq_vs_dWq_layer48")
    maps = {}
    for printed, title in _RANKS.items():
        # The file has a row for each cell of each map.
        cells = rows_where(published, "dWq_from", printed)
        phi = cells.pivot(index="i_Wq", columns="j_dWq", values="phi")
        maps[title] = phi.to_numpy()
    return maps


def figure8_range(width: int) -> tuple[int, int]:
    """Return the first and the last i of Figure 8 in a model of another width.

    They are W's directions from 3 % to 10 % of all.
    """
    first, last = (max(1, round(i * width / WIDTH)) for i in FIGURE8_ROWS)
    return first, last


@functools.cache
def _maps(*names: str) -> dict[str, dict[int, np.ndarray]]:
    """The maps of several files by matrix and layer, layers in order.

    They are read once, as a page asks for them several times, and cannot be written to.
    """
    published = pd.concat([table(name) for name in names])
    # One long table: a row for each cell of each map.
    # The files between two ranks say which axis is which rank.
    published = published.rename(columns={"i_r8": "i", "j_r64": "j"})
    maps: dict[str, dict[int, np.ndarray]] = {}
    for printed, name in _MATRICES.items():
        of_matrix = rows_where(published, "matrix", printed)
        for layer in sorted(of_matrix["layer"].unique()):
            cells = rows_where(of_matrix, "layer", layer)
            # [i, j]; a cell that is not in the figure is NaN.
            phi = cells.pivot(index="i", columns="j", values="phi")
            layers = maps.setdefault(name, {})
            values = phi.to_numpy()
            values.flags.writeable = False
            layers[int(layer)] = values
    return maps
