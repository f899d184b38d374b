"""The highest rank within a budget: `python -m lora_jax.accounting BUDGET MODEL TARGETS`.

MODEL is a name in `accounting.ARCHITECTURES`; TARGETS are names among query, key, value,
output, up and down, joined by commas.
"""

import argparse
import sys

from lora_jax.accounting import rank_for


def main() -> None:
    """Print the rank, its parameters and what is left of the budget."""
    parser = argparse.ArgumentParser(
        prog="python -m lora_jax.accounting",
        description="The highest rank that a budget of parameters pays for.",
    )
    parser.add_argument("budget", type=int, help="trainable parameters")
    parser.add_argument("model", nargs="?", default="gpt3-175b")
    parser.add_argument("targets", nargs="?", default="query,value")
    asked = parser.parse_args()
    try:
        fit = rank_for(asked.budget, asked.model, asked.targets)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(
        f"{asked.model}, {asked.targets}, at most {asked.budget:,} parameters: "
        f"r = {fit.rank} has {fit.parameters:,} and leaves {fit.left:,}"
    )


if __name__ == "__main__":
    main()
