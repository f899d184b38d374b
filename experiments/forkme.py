"""The smallest complete experiment, to copy: does LoRA's alpha matter once the learning rate is fixed?

Paper: Hu et al. 2021, section 4.1: "tuning alpha is roughly the same as tuning the learning rate". Five minutes on two cores.

    python experiments/forkme.py
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes

from lora_jax import results
from lora_jax.experiment import cli, run, schedule


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    out: Path = Path("results")
    dry_run: bool = False
    alphas: tuple[float, ...] = (4.0, 16.0, 64.0)
    targets: str = "query,value"
    rank: int = 8
    seed: int = 0
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=run.Setup)


PRESETS = {
    "smoke": Config("smoke", Path("results/smoke"), setup=run.SMOKE),
    "quick": Config(),
    "full": Config("full", setup=replace(run.SETUP, rows=0, validation_rows=0)),
}


def cells(config: Config) -> list[schedule.Row]:
    """One cell for each alpha."""
    fixed = {"targets": config.targets, "rank": config.rank, "seed": config.seed}
    return [
        {**asdict(replace(config.setup, alpha=alpha)), **fixed}
        for alpha in config.alphas
    ]


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """A table with a line for each row."""
    every: Any = results.frame(rows)
    table = every[["data", "alpha", "rank", schedule.primary(rows[0])]].sort_values(
        "alpha"
    )
    return results.render(
        out / "forkme", markdown=f"# Alpha\n\n{results.markdown(table)}", table=table
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and draw."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    schedule.run(
        "forkme",
        config.out,
        cells(config),
        lambda cell: f"alpha={cell['alpha']}",
        render,
        dry_run=config.dry_run,
    )


if __name__ == "__main__":
    cli.script(main)
