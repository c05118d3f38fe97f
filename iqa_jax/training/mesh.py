"""How arrays lie on several devices: a batch is split between them, everything else is on each."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"  # of a mesh: the batch is split along it


@dataclasses.dataclass(frozen=True)
class DataMesh:
    """A row of devices between which batches are split."""

    mesh: Mesh

    @classmethod
    def of(cls, devices: Sequence["jax.Device"]) -> "DataMesh":  # pyright: ignore  # jax's stubs
        axis = jax.sharding.AxisType.Auto
        return cls(jax.make_mesh((len(devices),), (AXIS,), axis_types=(axis,), devices=devices))

    @property
    def split(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, count: int) -> np.ndarray:
        """Those of `count` rows of a split array that lie on this process's devices."""
        places = self.split.addressable_devices_indices_map((count,)).values()
        return np.unique(np.concatenate([np.arange(count)[place] for place in places]))

    def put_split(self, tree, rows: np.ndarray, count: int):
        """Split arrays of `count` rows, from the `rows` that this process has of each."""

        def put(part):
            def of(index):
                wanted = np.arange(count)[index[0]]
                return part[np.searchsorted(rows, wanted)]

            return jax.make_array_from_callback((count, *part.shape[1:]), self.split, of)

        return jax.tree.map(put, tree)

    def replicate(self, tree):
        """Arrays that every process has, on each device."""

        def put(x):
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self.replicated, lambda index: x[index])

        return jax.tree.map(put, tree)
