"""What the steps of a run take: batches of crops.

The images are decoded when a batch needs them ("stream"), once into this process's memory ("host"), or once
onto the devices, where each step cuts its crops ("device"); the batches are the same.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from iqa_jax.data.source import PairSource
from iqa_jax.errors import ConfigError
from iqa_jax.ops.augment import Cropping, cut_crop
from iqa_jax.parallel.read_ahead import read_ahead
from iqa_jax.training.batches import Batch, BatchIndex, Examples, Images, Order
from iqa_jax.training.config import TrainConfig
from iqa_jax.training.log import progress_bar
from iqa_jax.training.mesh import AXIS, DataMesh

# Shares of the memory that there is, up to which "auto" takes it for decoded images.
_DEVICE_SHARE, _HOST_SHARE = 0.4, 0.3
_SHELF_WIDTH = 2048  # pixels, of an atlas of images that are not wider


@dataclasses.dataclass(frozen=True)
class Shelves:
    """Where images of several sizes lie in one large image, side by side on shelves.

    Attributes:
      height, width: of the large image.
      corner: (N, 2) int32, top and left of each.
    """

    height: int
    width: int
    corner: np.ndarray

    @classmethod
    def of(cls, size: np.ndarray) -> "Shelves":
        """For images of (N, 2) height and width; the highest come first, so that little is lost."""
        corner = np.zeros((len(size), 2), np.int32)
        width = max(_SHELF_WIDTH, int(size[:, 1].max(initial=1)))
        top = left = shelf = 0
        for number in np.argsort(-size[:, 0], kind="stable"):
            if left + size[number, 1] > width:
                top, left, shelf = top + shelf, 0, 0
            corner[number] = top, left
            left += size[number, 1]
            shelf = max(shelf, size[number, 0])
        return cls(int(top + shelf), width, corner)

    def filled(self, images: Iterator[tuple[int, np.ndarray]], height: int) -> np.ndarray:
        """The large image, (height, width, 3) uint8, with these numbered images in it."""
        large = np.zeros((height, self.width, 3), np.uint8)
        for number, image in images:
            top, left = self.corner[number]
            large[top : top + image.shape[0], left : left + image.shape[1]] = image
        return large


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Store:
    """Decoded images on the devices: the distorted ones divided between them, all else on each.

    Attributes:
      distorted: (devices * height, width, 3) uint8, a large image for each device.
      place: (N, 3) int32, each distorted image's device, top and left there.
      references: (height, width, 3) uint8; None for a model that needs none.
      reference_corner: (R, 2) int32, top and left of each reference.
      reference: (N,) int32, row of `reference_corner`.
      index, size, mos, pseudo: columns as in `Examples`.
    """

    distorted: jax.Array
    place: jax.Array
    references: jax.Array | None
    reference_corner: jax.Array | None
    reference: jax.Array
    index: jax.Array
    size: jax.Array
    mos: jax.Array
    pseudo: jax.Array

    def batch(self, chosen: BatchIndex, cropping: Cropping, mesh: Mesh) -> Batch:
        """The crops of these examples; for use in a jitted step."""
        positions = chosen.position
        index, pseudo = self.index[positions], self.pseudo[positions]
        corners = cropping.corners(chosen.epoch, index, self.size[positions], pseudo)
        place = self.place[positions]
        place = jnp.concatenate([place[:, :1], place[:, 1:] + corners], axis=1)
        reference = None
        if self.references is not None and self.reference_corner is not None:
            corners += self.reference_corner[self.reference[positions]]
            reference = _crops(self.references, corners, cropping.size)
        return Batch(
            index=index,
            epoch=chosen.epoch,
            reference=reference,
            distorted=_gathered(self.distorted, place, cropping.size, mesh),
            mos=self.mos[positions],
            pseudo=pseudo,
        )


def _crops(large: jax.Array, corners: jax.Array, size: int) -> jax.Array:
    """(B, size, size, 3) from a large image (H, W, 3), at (B, 2) corners."""
    return jax.vmap(lambda corner: cut_crop(large, corner, size))(corners)


def _gathered(large: jax.Array, place: jax.Array, size: int, mesh: Mesh) -> jax.Array:
    """Crops (B, size, size, 3) at (B, 3) devices and corners; only they go from device to device."""
    if mesh.size == 1:
        return _crops(large, place[:, 1:], size)

    def on_one(large, place):
        every = lax.all_gather(place, AXIS, tiled=True)  # the whole batch's
        here = every[:, 0] == lax.axis_index(AXIS)
        crops = _crops(large, jnp.where(here[:, None], every[:, 1:], 0), size)
        crops = jnp.where(here[:, None, None, None], crops, 0)
        return lax.psum_scatter(crops, AXIS, tiled=True)  # one device has each crop, the others 0

    split = PartitionSpec(AXIS)
    return jax.shard_map(on_one, mesh=mesh, in_specs=(split, split), out_specs=split)(large, place)


class Feed:
    """What the steps of a run take, wherever the images are.

    Attributes:
      mesh: on which the batches lie.
      kept: "device", "host" or "stream".
      store: what a step needs beside its own input; None unless the images are on the devices.
    """

    def __init__(
        self,
        examples: Examples,
        order: Order,
        cropping: Cropping,
        mesh: DataMesh,
        *,
        kept: str,
        say: Callable[[str], None] = lambda line: None,
    ):
        """Decodes the images, unless they are streamed.

        Args:
          kept: "device", "host", "stream" or "auto", which takes the first that there is room for.
        Raises:
          ConfigError: there is no room on the devices.
        """
        self._examples, self._order, self.cropping = examples, order, cropping
        self.mesh = mesh
        self.kept = _chosen(kept, examples, mesh, say)
        self._count = len(order(0).position)
        self._rows = mesh.rows(self._count)
        self._batches: Iterator[Batch] | None = None
        self.store: Store | None = None
        self._images: Examples | Images = examples
        if self.kept == "device":
            self.store = _on_devices(examples, mesh)
        elif self.kept == "host":
            self._images = _in_memory(examples)

    def take(self, number: int) -> Batch | BatchIndex:
        """What the step of this number takes, on the devices; the numbers have to follow one another."""
        inputs: Batch | BatchIndex
        if self.kept == "device":
            inputs = self._order(number).rows(self._rows)
        else:
            if self._batches is None:
                self._batches = read_ahead(self._loaded, count(number), threads=2)
            inputs = next(self._batches)
        return self.mesh.put_split(inputs, self._rows, self._count)

    def _loaded(self, number: int) -> Batch:
        chosen = self._order(number).rows(self._rows)
        return self._examples.batch(chosen, self.cropping, self._images)

    def several(self, start: int, steps: int) -> BatchIndex:
        """What several steps take, stacked; only for images that are kept on the devices."""
        batches = [self._order(number) for number in range(start, start + steps)]
        return self.mesh.replicate(jax.tree.map(lambda *parts: np.stack(parts), *batches))

    def batch(self, store: Store | None, inputs: Batch | BatchIndex) -> Batch:
        """The batch that `take` stands for; for use in a jitted step, which is given `store`."""
        if store is None:
            return cast(Batch, inputs)
        return store.batch(cast(BatchIndex, inputs), self.cropping, self.mesh.mesh)


def feed_of(
    config: TrainConfig,
    training: PairSource,
    pseudo: PairSource | None,
    sizes: Sequence[int],
    mesh: DataMesh,
    *,
    say: Callable[[str], None],
) -> Feed:
    """The feed of a run; `sizes` has the labelled and the pseudo-labelled pairs of a batch."""
    sources = [training] if pseudo is None else [training, pseudo]
    examples = Examples(sources, with_references=config.full_reference)
    order = Order(examples.lengths, sizes[: len(sources)], seed=config.seed)
    cropping = Cropping(config.seed, config.crop_size, noise=config.pseudo_labelled)
    return Feed(examples, order, cropping, mesh, kept=config.data.placement, say=say)


def _memory(mesh: DataMesh) -> tuple[int, int]:
    """Bytes that the devices have together (0 where that is unknown), and that are free in memory."""
    stats = [device.memory_stats() or {} for device in mesh.mesh.local_devices]
    free = psutil.virtual_memory().available
    return min(s.get("bytes_limit", 0) for s in stats) * mesh.mesh.size, free


def _chosen(kept: str, examples: Examples, mesh: DataMesh, say: Callable[[str], None]) -> str:
    needed = 3 * int((examples.size.prod(1).sum(dtype=np.int64)) + examples.reference_size.prod(1).sum())
    device, free = _memory(mesh)
    room = device * _DEVICE_SHARE
    size = f"{needed / 2**20:,.0f} MiB decoded"
    if kept == "device" and 0 < room < needed:
        raise ConfigError(
            f"config.data.placement=device: {size}, there is room for {room / 2**20:,.0f}; use host"
        )
    if kept != "auto":
        say(f"images: {kept} ({size})")
        return kept
    if needed < room:
        kept, why = "device", f"room for {room / 2**20:,.0f} on the devices"
    elif needed < free * _HOST_SHARE:
        kept, why = "host", f"{free / 2**20:,.0f} free in memory"
    else:
        kept, why = "stream", f"only {free / 2**20:,.0f} free in memory"
    say(f"images: {kept} ({size}, {why})")
    return kept


def _decoded(
    read: Callable[[int], np.ndarray], numbers: Sequence[int], what: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Each number with its image."""
    with progress_bar(len(numbers), what, "image") as bar:
        for number, image in zip(numbers, read_ahead(read, numbers, ahead=64, threads=None), strict=True):
            yield number, image
            bar.update()


def _in_memory(examples: Examples) -> Images:
    distorted = _decoded(examples.distorted_image, range(len(examples)), "decoding")
    references = _decoded(
        examples.reference_image, range(len(examples.reference_size)), "decoding references"
    )
    return Images([image for _, image in distorted], [image for _, image in references])


def _on_devices(examples: Examples, mesh: DataMesh) -> Store:
    devices = mesh.mesh.size
    parts = np.array_split(np.arange(len(examples)), devices)
    shelves = [Shelves.of(examples.size[part]) for part in parts]
    height = max(one.height for one in shelves)
    width = max(one.width for one in shelves)
    shelves = [dataclasses.replace(one, width=width) for one in shelves]
    place = np.concatenate(
        [
            np.column_stack([np.full(len(part), device), one.corner])
            for device, (part, one) in enumerate(zip(parts, shelves, strict=True))
        ]
    )

    def of_device(index):
        number = (index[0].start or 0) // height
        part = parts[number]
        images = _decoded(lambda k: examples.distorted_image(part[k]), range(len(part)), "decoding")
        return shelves[number].filled(images, height)

    shape = (devices * height, width, 3)
    columns = {name: getattr(examples, name) for name in ("reference", "index", "size", "mos", "pseudo")}
    columns |= {"place": place.astype(np.int32), "references": None, "reference_corner": None}
    if len(examples.reference_size):
        under = Shelves.of(examples.reference_size)
        images = _decoded(
            examples.reference_image, range(len(examples.reference_size)), "decoding references"
        )
        columns |= {"references": under.filled(images, under.height), "reference_corner": under.corner}
    distorted = jax.make_array_from_callback(shape, mesh.split, of_device)
    return Store(distorted=distorted, **mesh.replicate(columns))
