"""Where the arrays of a population are."""

from typing import Any, NamedTuple

from jax.sharding import NamedSharding, PartitionSpec

from lora_jax import data, devices
from lora_jax.devices import CELLS, DATA
from lora_jax.train.sharding import Placement


class Places(NamedTuple):
    """Where arrays are: the base as for one training, the cells over the axis `cells`."""

    one: Placement  # of a single training

    @property
    def parts(self) -> int:
        """Among how many devices the cells are divided."""
        return self.one.mesh.shape.get(CELLS, 1)

    def put_cells(self, leaves: Any) -> Any:
        """Return leaves [N, ...] of cells in their places."""
        spec = PartitionSpec(CELLS) if self.parts > 1 else PartitionSpec()
        return devices.put(leaves, NamedSharding(self.one.mesh, spec))

    def put_batches(self, batches: data.Batch) -> data.Batch:
        """Return the leaves [S, B, ...] of batches in their places."""
        return devices.put(
            batches, NamedSharding(self.one.mesh, PartitionSpec(None, DATA))
        )
