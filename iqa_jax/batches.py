"""Batches of pairs: which examples make them up, and where their images are kept.

Which examples a batch has depends on the seed and on the number of the batch alone.  Their images are
decoded as they are needed ("stream"), kept decoded in this process's memory ("host") or kept on the devices,
where a step takes what it needs ("device"); the batches are the same.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from iqa_jax.data import PairSource
from iqa_jax.errors import ConfigError

PLACEMENTS = ("auto", "device", "host", "stream")
_AXIS = "data"  # of a mesh: the batch is split along it
# Shares of the memory that there is, up to which "auto" takes it for decoded images.
_DEVICE_SHARE, _HOST_SHARE = 0.4, 0.3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Pairs in arrays; images smaller than the largest are filled up at the bottom and right.

    Attributes:
      index, epoch: (B,) int32, position in the split and pass over the data; with the seed they
        determine each example's augmentation.
      reference, distorted: (B, H, W, 3) uint8; no reference for a model that needs none.
      size: (B, 2) int32, height and width of each image.
      mos: (B,) float32.
      pseudo: (B,) bool, whether a label is a model's.
    """

    index: np.ndarray
    epoch: np.ndarray
    reference: np.ndarray | None
    distorted: np.ndarray
    size: np.ndarray
    mos: np.ndarray
    pseudo: np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draw:
    """Which examples make up a batch.

    Attributes:
      position: (B,) int32, in `Examples`.
      epoch: (B,) int32, pass over the data.
    """

    position: np.ndarray
    epoch: np.ndarray


class Order:
    """The draw of each batch, by its number; every epoch is shuffled anew.

    With two kinds of examples (labelled and pseudo-labelled), a batch has the first kind's followed by
    the second's.  An epoch of a kind is as many whole shares of a batch as there are.
    """

    def __init__(self, lengths: Sequence[int], batch_sizes: Sequence[int], *, seed: int):
        """Takes the number of examples of each kind and how many of them a batch has."""
        self._kinds = list(zip(lengths, batch_sizes, strict=True))
        self._seed = seed
        self._permutation = functools.lru_cache(maxsize=8)(self._shuffled)

    def _shuffled(self, kind: int, epoch: int) -> np.ndarray:
        length, _ = self._kinds[kind]
        return np.random.default_rng((self._seed, kind, epoch)).permutation(length).astype(np.int32)

    def __call__(self, number: int) -> Draw:
        """The draw of the batch of this number."""
        positions, epochs, offset = [], [], 0
        for kind, (length, size) in enumerate(self._kinds):
            epoch, place = divmod(number, length // size)
            positions.append(offset + self._permutation(kind, epoch)[place * size : (place + 1) * size])
            epochs.append(np.full(size, epoch, np.int32))
            offset += length
        return Draw(np.concatenate(positions), np.concatenate(epochs))


class Examples:
    """The pairs of one or more sources, by their position in all of them.

    Attributes:
      index, size, mos, pseudo: columns as in `Batch`, (N, …).
      shape: height and width of the largest image.
    """

    def __init__(self, sources: Sequence[PairSource], *, with_references: bool = True):
        self._sources, self.with_references = sources, with_references
        self._start = np.cumsum([0, *(len(source) for source in sources)])
        self.index = np.concatenate([source.index for source in sources]).astype(np.int32)
        self.size = np.concatenate([source.size for source in sources]).astype(np.int32)
        self.mos = np.concatenate([source.mos for source in sources]).astype(np.float32)
        self.pseudo = np.repeat([source.pseudo for source in sources], np.diff(self._start))
        self.shape = tuple(self.size.max(axis=0).tolist())
        names = [(kind, name) for kind, source in enumerate(sources) for name in source.reference]
        self._references = list(dict.fromkeys(names)) if with_references else []
        number = {name: n for n, name in enumerate(self._references)}
        self.reference = np.array([number.get(name, 0) for name in names], np.int32)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def lengths(self) -> list[int]:
        """How many there are of each source."""
        return np.diff(self._start).tolist()

    @property
    def references(self) -> int:
        """How many reference images there are."""
        return len(self._references)

    @property
    def decoded_bytes(self) -> int:
        """What all images take when they are decoded and filled up."""
        return (len(self) + self.references) * self.shape[0] * self.shape[1] * 3

    def distorted_image(self, position: int) -> np.ndarray:
        """(H, W, 3) uint8, filled up to `shape`."""
        kind = int(np.searchsorted(self._start, position, side="right")) - 1
        return _filled_up(self._sources[kind].distorted_image(position - self._start[kind]), self.shape)

    def reference_image(self, number: int) -> np.ndarray:
        """The reference of this number in `reference`, (H, W, 3) uint8, filled up to `shape`."""
        kind, name = self._references[number]
        return _filled_up(self._sources[kind].reference_image(name), self.shape)

    def batch(self, draw: Draw) -> Batch:
        """The examples of a draw, decoded."""
        position = draw.position
        reference = None
        if self.with_references:
            reference = np.stack([self.reference_image(n) for n in self.reference[position]])
        distorted = np.stack([self.distorted_image(p) for p in position])
        return self.described(draw, reference, distorted)

    def described(self, draw: Draw, reference: np.ndarray | None, distorted: np.ndarray) -> Batch:
        """The batch of a draw whose images are there."""
        columns = {name: getattr(self, name)[draw.position] for name in ("index", "size", "mos", "pseudo")}
        return Batch(epoch=draw.epoch, reference=reference, distorted=distorted, **columns)


def training_batches(
    source: PairSource, *, batch_size: int, seed: int, start: int = 0, with_references: bool = True
) -> Iterator[Batch]:
    """Endless batches of one source, decoded ahead by threads, from the batch of number `start` on."""
    examples = Examples([source], with_references=with_references)
    order = Order(examples.lengths, [batch_size], seed=seed)
    return _ahead(lambda number: examples.batch(order(number)), start)


def _ahead(load: Callable[[int], Batch], start: int) -> Iterator[Batch]:
    """What `load` gives for `start`, `start + 1` and so on, computed ahead by threads."""
    import grain

    numbers = grain.MapDataset.range(start, start + 2**31)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(numbers.map(load).to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where arrays go: the batch split between all devices, everything else on each of them."""

    mesh: Mesh

    @classmethod
    def of(cls, devices: Sequence[jax.Device]) -> "Placement":
        axis = jax.sharding.AxisType.Auto
        return cls(jax.make_mesh((len(devices),), (_AXIS,), axis_types=(axis,), devices=devices))

    @property
    def split(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(_AXIS))

    @property
    def everywhere(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, count: int) -> np.ndarray:
        """Those of `count` rows of a split array that lie on this process's devices."""
        places = self.split.addressable_devices_indices_map((count,)).values()
        return np.unique(np.concatenate([np.arange(count)[place] for place in places]))

    def put_split(self, rows: np.ndarray, count: int, part: np.ndarray) -> jax.Array:
        """The split array of `count` rows, from the `rows` that this process has."""

        def of(index):
            wanted = np.arange(count)[index[0]]
            return part[np.searchsorted(rows, wanted)]

        return jax.make_array_from_callback((count, *part.shape[1:]), self.split, of)

    def put_batch(self, batch: Batch | Draw, rows: np.ndarray, count: int) -> Batch | Draw:
        """A batch of `count` examples on the devices, from this process's `rows` of it."""
        return jax.tree.map(lambda part: self.put_split(rows, count, part), batch)

    def put_everywhere(self, tree):
        """Arrays that every process has, on each device."""

        def put(x):
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self.everywhere, lambda index: x[index])

        return jax.tree.map(put, tree)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Store:
    """Decoded images on the devices: the distorted ones split between them, all else on each.

    Attributes:
      distorted: (N', H, W, 3) uint8, N' the next multiple of the number of devices.
      references: (R, H, W, 3) uint8; None for a model that needs none.
      reference: (N,) int32, row of `references`.
      index, size, mos, pseudo: columns as in `Batch`, (N, …).
    """

    distorted: jax.Array
    references: jax.Array | None
    reference: jax.Array
    index: jax.Array
    size: jax.Array
    mos: jax.Array
    pseudo: jax.Array

    def batch(self, draw: Draw, mesh: Mesh) -> Batch:
        """The examples of a draw; for use in a jitted step."""
        at = draw.position
        references = self.references
        return Batch(
            index=self.index[at],
            epoch=draw.epoch,
            reference=None if references is None else references[self.reference[at]],
            distorted=_taken(self.distorted, at, mesh),
            size=self.size[at],
            mos=self.mos[at],
            pseudo=self.pseudo[at],
        )


def _taken(images: jax.Array, at: jax.Array, mesh: Mesh) -> jax.Array:
    """Rows `at` of images that are split over the mesh; only those rows go from device to device."""
    devices = mesh.size
    if devices == 1:
        return images[at]

    def on_one(images, at):
        every = lax.all_gather(at, _AXIS, tiled=True)  # the whole batch's rows
        local = every - lax.axis_index(_AXIS) * images.shape[0]
        here = (local >= 0) & (local < images.shape[0])
        rows = images[jnp.clip(local, 0, images.shape[0] - 1)]
        rows = jnp.where(here[:, None, None, None], rows, 0)
        return lax.psum_scatter(rows, _AXIS, tiled=True)  # one device has each row, the others 0

    split = PartitionSpec(_AXIS)
    return jax.shard_map(on_one, mesh=mesh, in_specs=(split, split), out_specs=split)(images, at)


class Feed:
    """What the steps of a run take, wherever the images are kept.

    Attributes:
      placement: of the batches.
      kept: "device", "host" or "stream".
      store: what a step needs beside its own input; None unless the images are on the devices.
    """

    def __init__(
        self,
        examples: Examples,
        order: Order,
        placement: Placement,
        *,
        kept: str,
        say: Callable[[str], None] = lambda line: None,
    ):
        """Decodes the images, unless they are streamed.

        Args:
          kept: one of `PLACEMENTS`; "auto" takes the first that there is room for, and says so.
        Raises:
          ConfigError: there is no room on the devices.
        """
        self._examples, self._order, self.placement = examples, order, placement
        self.kept = _chosen(kept, examples, placement, say)
        self._count = len(order(0).position)
        self._rows = placement.rows(self._count)
        self._batches: Iterator[Batch] | None = None
        self.store, self._host = None, None
        if self.kept == "device":
            self.store = _on_devices(examples, placement)
        elif self.kept == "host":
            self._host = _decoded(examples, np.arange(len(examples)))

    def take(self, number: int) -> Batch | Draw:
        """What the step of this number takes, on the devices; the numbers have to follow one another."""
        if self.kept == "device":
            return self.placement.put_batch(
                _rows_of(self._order(number), self._rows), self._rows, self._count
            )
        if self._batches is None:
            self._batches = _ahead(self._loaded, number)
        return self.placement.put_batch(next(self._batches), self._rows, self._count)

    def _loaded(self, number: int) -> Batch:
        draw = _rows_of(self._order(number), self._rows)
        if self._host is None:
            return self._examples.batch(draw)
        distorted, references = self._host
        reference = None if references is None else references[self._examples.reference[draw.position]]
        return self._examples.described(draw, reference, distorted[draw.position])

    def several(self, start: int, count: int) -> Draw:
        """The draws of `count` steps, stacked; only for images that are kept on the devices."""
        draws = [self._order(number) for number in range(start, start + count)]
        return self.placement.put_everywhere(jax.tree.map(lambda *parts: np.stack(parts), *draws))


def as_batch(store: Store | None, inputs: Batch | Draw, placement: Placement) -> Batch:
    """The batch that a feed's `take` stands for; for use in a jitted step."""
    return inputs if store is None else store.batch(inputs, placement.mesh)


def _rows_of(draw: Draw, rows: np.ndarray) -> Draw:
    return Draw(draw.position[rows], draw.epoch[rows])


def _memory(placement: Placement) -> tuple[int, int]:
    """Bytes that the devices have together (0 where they do not tell), and that are free in memory."""
    stats = [device.memory_stats() or {} for device in placement.mesh.local_devices]
    free = psutil.virtual_memory().available
    return min(s.get("bytes_limit", 0) for s in stats) * placement.mesh.size, free


def _chosen(kept: str, examples: Examples, placement: Placement, say) -> str:
    needed = examples.decoded_bytes
    device, free = _memory(placement)
    room = device * _DEVICE_SHARE
    told = f"{needed / 2**20:,.0f} MiB decoded"
    if kept == "device" and 0 < room < needed:
        raise ConfigError(
            f"config.data.placement=device: {told}, there is room for {room / 2**20:,.0f}; use host"
        )
    if kept != "auto":
        say(f"images: {kept} ({told})")
        return kept
    if needed < room:
        kept, why = "device", f"room for {room / 2**20:,.0f} on the devices"
    elif needed < free * _HOST_SHARE:
        kept, why = "host", f"{free / 2**20:,.0f} free in memory"
    else:
        kept, why = "stream", f"only {free / 2**20:,.0f} free in memory"
    say(f"images: {kept} ({told}, {why})")
    return kept


def _decoded(examples: Examples, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The distorted images at these positions, and all references: (…, H, W, 3) uint8."""
    total = len(positions) + examples.references
    with ThreadPoolExecutor() as pool, tqdm(total=total, desc="decoding", unit="image", leave=False) as bar:

        def all_of(read, numbers):
            images = np.empty((len(numbers), *examples.shape, 3), np.uint8)

            def fill(place):
                images[place] = read(numbers[place])
                bar.update()

            list(pool.map(fill, range(len(numbers))))
            return images

        distorted = all_of(examples.distorted_image, positions)
        numbers = np.arange(examples.references)
        return distorted, all_of(examples.reference_image, numbers) if len(numbers) else None


def _on_devices(examples: Examples, placement: Placement) -> Store:
    count = -(-len(examples) // placement.mesh.size) * placement.mesh.size
    rows = placement.rows(count)
    distorted, references = _decoded(examples, np.minimum(rows, len(examples) - 1))
    columns = {name: getattr(examples, name) for name in ("reference", "index", "size", "mos", "pseudo")}
    replicated = placement.put_everywhere({"references": references, **columns})
    return Store(distorted=placement.put_split(rows, count, distorted), **replicated)


def _filled_up(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    height, width = image.shape[:2]
    if (height, width) == shape:
        return image
    return np.pad(image, ((0, shape[0] - height), (0, shape[1] - width), (0, 0)))
