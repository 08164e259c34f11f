"""Batches of pictures and their degraded versions: of a set in memory, or crops of photographs of any size."""

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rastudy.config import Config
from rastudy.data import distributed
from rastudy.data.datasets import CIFAR10_FILES, PictureSet, load_split, part_of_folder
from rastudy.data.degradations import degrade
from rastudy.data.image_files import centre_crop, list_pictures
from rastudy.data.imagenet import labels_digest, part_of
from rastudy.data.photo_cache import FilePhotos, Photos
from rastudy.errors import StudyError
from rastudy.paths import expand
from rastudy.registry import MODES, TASKS, dataset_of

EVALUATION_BATCH, EVALUATION_PIXELS = 100, 1_000_000  # most pictures and pixels of a batch; results do not depend on them
CACHED_PIXELS = 4 * 224**2  # that a CPU's caches hold: of 20 photographs at once each takes P and R 1.5 to 2 times as long
Order = TypeVar("Order", torch.Tensor, list)


def load_pictures(config: Config, split: str) -> PictureSet:
    """A run's training, validation or test pictures, whatever its data set; StudyError as of :func:`.datasets.load_split`."""
    return load_split(**_source_of(config, split))


def digest_of(config: Config, split: str) -> str:
    """The digest of a run's pictures (:attr:`.datasets.PictureSet.digest`); loaded once for all runs that have the same."""
    return _digest(tuple(_source_of(config, split).items()))


@cache
def _digest(source: tuple[tuple[str, Any], ...]) -> str:
    return load_split(**dict(source)).digest


def _source_of(config: Config, split: str) -> dict[str, Any]:
    """What :func:`.datasets.load_split` is asked for."""
    n = {"train": config.train_images, "val": config.val_images, "test": config.test_images}.get(split, 0)
    return dict(
        dataset=config.dataset, split=split, n=n, data_dir=config.data_dir, size=config.image_size, n_val=config.val_images,
        n_test=config.test_images, labelled=MODES[config.mode].reads_labels, skip_unreadable=config.skip_unreadable,
        classes=config.stated_classes, resize=config.resize, cache_dir=config.cache_dir, workers=config.workers,
    )  # fmt: skip


def data_version(config: Config, split: str) -> dict[str, str]:
    """Which pictures of the user's folder a split is taken from: a run on another folder, or an edited one, is another run.

    ``photographs``: of their names and sizes, for they are many; ``pictures``: of the files' contents. Empty for embedded sets.
    """
    data = dataset_of(config.dataset)
    if not data.needs_folder:
        return {}
    if data.photographs:
        folder, _ = part_of(config.data_dir, split)
        return {"photographs": _version(folder if config.data_dir else None, config.resize)}
    folder = expand(config.data_dir)
    place = next((place for place in (folder / CIFAR10_FILES, folder / part_of_folder(folder, split)) if place.is_dir()), None)
    return {"pictures": _version(place if config.data_dir else None)}


@cache
def _version(folder: Path | None, resize: int = 0) -> str:
    """A digest, first 16 hex digits: with ``resize`` of photographs (and flat ones' labels), else of every file's content."""
    if folder is None or not folder.is_dir():
        return "missing"
    if resize:
        photos = list_pictures(folder)
        return FilePhotos(folder, photos, resize).digest()[:16] + labels_digest(folder, photos)
    sha = hashlib.sha256()
    files = sorted(p.name for p in folder.iterdir()) if folder.name == CIFAR10_FILES else list_pictures(folder)
    for name in files:
        sha.update(os.fsencode(name) + b"\n")
        sha.update((folder / name).read_bytes() if (folder / name).is_file() else b"")
    return sha.hexdigest()[:16]


class Batch(NamedTuple):
    """``lq`` (N, 3, h, w) and ``gt`` (N, 3, H, W) float32 in [0, 1], ``label`` and ``index`` (N,) int64."""

    lq: torch.Tensor
    gt: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # it hides a tuple's method of that name


class Batches:
    """What both loaders share: the number of batches in an epoch, and the order, which depends on seed and epoch alone.

    Args:
        shard: rank and world size: every ``world``-th picture of each batch, from the ``rank``-th on.
    """

    def __init__(self, pictures: PictureSet, batch_size: int, shard: tuple[int, int]):
        self.label, self.batch_size, self.shard = torch.from_numpy(pictures.labels), batch_size, shard

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.label) // self.batch_size)

    def shuffle(self, seed: int, epoch: int) -> tuple[torch.Generator, torch.Tensor]:
        """The epoch's generator, from which its other draws follow, and the order of the pictures."""
        generator = torch.Generator().manual_seed(10_000 * seed + epoch)
        return generator, torch.randperm(len(self.label), generator=generator)


class Loader(Batches):
    """Batches of a picture set in memory for one task, degraded once where the degradation is deterministic.

    Args:
        flip: training draws each picture as it is or horizontally flipped.
    """

    def __init__(
        self, pictures: PictureSet, task: str, strength: float, batch_size: int, flip: bool = False,
        shard: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        super().__init__(pictures, batch_size, shard)
        self.task, self.strength = task, strength
        variants = [pictures.array, pictures.array[:, :, ::-1]][: 1 + flip]
        self.gt = torch.from_numpy(np.stack(variants))  # V N H W 3
        self.lq = None if TASKS[task].random else torch.stack([self._degrade_all(v) for v in variants])

    def _degrade_all(self, pictures: np.ndarray) -> torch.Tensor:
        lq = [(degrade(p, self.task, self.strength) * 255).round().to(torch.uint8) for p in pictures]
        return torch.stack(lq).permute(0, 2, 3, 1).contiguous()

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Shuffled batches; they depend on ``seed`` and ``epoch`` alone, so every mode sees the same ones."""
        generator, order = self.shuffle(seed, epoch)
        n = len(order)
        variant = torch.randint(len(self.gt), (n,), generator=generator)
        noise_seed = torch.randint(2**31, (n,), generator=generator)
        for index in parts(order, self.batch_size, self.shard, training=True):
            yield self._batch(index, variant[index], noise_seed[index])

    def ordered(self) -> Iterator[Batch]:
        """Every picture once, in order, noise seeded by its index: for evaluation."""
        for index in parts(torch.arange(len(self.label)), self.batch_size, self.shard, training=False):
            yield self._batch(index, torch.zeros_like(index), index)

    def _batch(self, index: torch.Tensor, variant: torch.Tensor, noise_seed: torch.Tensor) -> Batch:
        gt = self.gt[variant, index]
        if self.lq is None:
            noisy = [degrade(p.numpy(), self.task, self.strength, int(s)) for p, s in zip(gt, noise_seed, strict=True)]
            lq = torch.stack(noisy).contiguous(memory_format=torch.channels_last)
        else:
            lq = to_float(self.lq[variant, index])
        return Batch(lq, to_float(gt), self.label[index], index)


def parts(order: Order, batch_size: int, shard: tuple[int, int], training: bool) -> Iterator[Order]:
    """A process's part of each batch: every ``world``-th picture from the ``rank``-th on.

    Every process trains on the whole of a last batch with fewer pictures than processes; evaluation never duplicates pictures.
    """
    rank, world = shard
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        part = batch if training and len(batch) < world else batch[rank::world]
        if len(part):
            yield part


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [0, 1]; the memory layout is channels_last already."""
    return pictures.permute(0, 3, 1, 2).float().div_(255)


class _Crops(Dataset):
    """Crop, flip and degrade one photograph; an item is ``(place, vertical, horizontal, flip, noise seed)``.

    The crop's corner is given as two numbers in [0, 1); negative numbers take the middle.
    """

    def __init__(self, photos: Photos | np.ndarray, task: str, strength: float, crop: int):
        self.photos, self.task, self.strength, self.crop = photos, task, strength, crop

    def __getitem__(self, item: tuple[int, float, float, bool, int]) -> tuple[torch.Tensor, torch.Tensor]:
        place, vertical, horizontal, flip, noise_seed = item
        photo = self.photos[place]
        if min(photo.shape[:2]) < self.crop:
            height, width, _ = photo.shape
            raise StudyError(f"a photograph of {width} x {height} pixels is smaller than the crop of {self.crop}; raise resize")
        if vertical < 0:
            gt = centre_crop(photo, self.crop)
        else:
            top, left = (int(u * (side - self.crop + 1)) for u, side in zip((vertical, horizontal), photo.shape, strict=False))
            gt = photo[top : top + self.crop, left : left + self.crop]
        gt = np.array(gt[:, ::-1] if flip else gt)  # a copy: the cache is read-only
        return degrade(gt, self.task, self.strength, noise_seed), torch.from_numpy(gt)


class CropLoader(Batches):
    """Batches of photographs, the counterpart of :class:`Loader`.

    Source: the release's RandomCrop and horizontal flip in training, CenterCrop in validation, of ``Resize(256)`` pictures.

    Args:
        crop: side of the square, pixels.
        workers: processes that crop and degrade; 0: this one.
    """

    def __init__(
        self, pictures: PictureSet, task: str, strength: float, batch_size: int, flip: bool, crop: int, workers: int = 0,
        shard: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        super().__init__(pictures, batch_size, shard)
        self.crops = _Crops(pictures.pictures, task, strength, crop)
        self.flip, self.workers = flip, min(workers, os.cpu_count() or 1)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Shuffled batches; crops, flips and noise depend on ``seed`` and ``epoch`` alone: every mode sees the same ones."""
        generator, order = self.shuffle(seed, epoch)
        n = len(order)
        corner = torch.rand(n, 2, dtype=torch.float64, generator=generator)
        flip = torch.randint(2, (n,), generator=generator).bool() & self.flip
        noise_seed = torch.randint(2**31, (n,), generator=generator)
        yield from self._batches(order, corner[order], flip[order], noise_seed[order], training=True)

    def ordered(self) -> Iterator[Batch]:
        """The middle of every picture once, in order, noise seeded by its index: for evaluation."""
        order = torch.arange(len(self.label))
        middle, unflipped = torch.full((len(order), 2), -1.0), torch.zeros(len(order), dtype=torch.bool)
        yield from self._batches(order, middle, unflipped, order, training=False)

    def _batches(
        self, order: torch.Tensor, corner: torch.Tensor, flip: torch.Tensor, noise_seed: torch.Tensor, training: bool
    ) -> Iterator[Batch]:
        columns = (order.tolist(), *corner.T.tolist(), flip.tolist(), noise_seed.tolist())
        batches = list(parts(list(zip(*columns, strict=True)), self.batch_size, self.shard, training))
        pinned = torch.cuda.is_available()
        loader = DataLoader(self.crops, batch_sampler=batches, num_workers=self.workers, pin_memory=pinned)
        for batch, (lq, gt) in zip(batches, loader, strict=True):
            index = torch.tensor([item[0] for item in batch], dtype=torch.int64)
            yield Batch(lq.contiguous(memory_format=torch.channels_last), to_float(gt), self.label[index], index)


def loader_of(pictures: PictureSet, config: Config) -> Loader | CropLoader:
    """The training batches of a run, this process's part of them."""
    return _loader(pictures, config, config.batch_size, config.flip, config.crop)


def evaluation_batches(pictures: PictureSet, config: Config) -> Iterator[Batch]:
    """Every picture once, in order; of several processes each gives its part, and no picture is duplicated to fill a batch."""
    height, width = pictures.size
    most = CACHED_PIXELS if config.torch_device().type == "cpu" else EVALUATION_PIXELS
    n = max(1, min(EVALUATION_BATCH, most // (height * width)))
    return _loader(pictures, config, n).ordered()


def _loader(pictures: PictureSet, config: Config, batch_size: int, flip: bool = False, crop: int = 0) -> Loader | CropLoader:
    shard = distributed.rank(), distributed.world()
    if isinstance(pictures.pictures, np.ndarray):
        return Loader(pictures, config.task, config.strength, batch_size, flip, shard)
    crop = crop or pictures.crop
    return CropLoader(pictures, config.task, config.strength, batch_size, flip, crop, config.workers, shard)
