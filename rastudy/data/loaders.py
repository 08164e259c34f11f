"""Photographs of any size: random crops for training, the middle for evaluation; and the pictures of every data set."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rastudy import registry
from rastudy.config import Config
from rastudy.data import distributed
from rastudy.data.datasets import PictureSet, count_of, load_split
from rastudy.data.degradations import degrade
from rastudy.data.image_files import centre_crop
from rastudy.data.imagenet import find_photos, part_of, split_of
from rastudy.data.photo_cache import CachedPhotos, FilePhotos, open_cache
from rastudy.errors import StudyError
from rastudy.paths import results_folder, write_csv
from rastudy.registry import bounds_of, half_of

EVALUATION_BATCH, EVALUATION_PIXELS = 100, 1_000_000  # most pictures and pixels of a batch; no figure depends on them


class Batch(NamedTuple):
    """``lq`` (N, 3, h, w) and ``gt`` (N, 3, H, W) float32 in [0, 1], ``label`` and ``index`` (N,) int64."""

    lq: torch.Tensor
    gt: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor


class Batches:
    """What loaders share: how many batches an epoch has, and the order that a seed and an epoch's number alone give it."""

    label: torch.Tensor
    batch_size: int

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.label) // self.batch_size)

    def shuffle(self, seed: int, epoch: int) -> tuple[torch.Generator, torch.Tensor]:
        """The epoch's generator, from which its other draws come in turn, and the pictures' order."""
        generator = torch.Generator().manual_seed(10_000 * seed + epoch)
        return generator, torch.randperm(len(self.label), generator=generator)


class Loader(Batches):
    """Batches of a picture set for one task, degraded once where the degradation is deterministic.

    Args:
        flip: add the horizontally flipped pictures to the training draw.
        shard: rank and world size: every ``world``-th picture of each batch, from the ``rank``-th on.
    """

    def __init__(
        self, pictures: PictureSet, task: str, strength: float, batch_size: int, flip: bool = False,
        shard: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        self.task, self.strength, self.batch_size, self.shard = task, strength, batch_size, shard
        self.label = torch.from_numpy(pictures.labels)
        variants = [pictures.pictures, pictures.pictures[:, :, ::-1]][: 1 + flip]
        self.gt = torch.from_numpy(np.stack(variants))  # V N H W 3
        self.lq = None if task == "dn" else torch.stack([self._degrade_all(v) for v in variants])

    def _degrade_all(self, pictures: np.ndarray) -> torch.Tensor:
        lq = [(degrade(p, self.task, self.strength) * 255).round().to(torch.uint8) for p in pictures]
        return torch.stack(lq).permute(0, 2, 3, 1).contiguous()

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Shuffled batches that depend on ``seed`` and ``epoch`` alone, so every mode sees the same ones."""
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
            noisy = [degrade(p.numpy(), "dn", self.strength, int(s)) for p, s in zip(gt, noise_seed, strict=True)]
            lq = torch.stack(noisy).contiguous(memory_format=torch.channels_last)
        else:
            lq = to_float(self.lq[variant, index])
        return Batch(lq, to_float(gt), self.label[index], index)


def parts(order: Sequence, batch_size: int, shard: tuple[int, int], training: bool) -> Iterator[Sequence]:
    """A process's part of each batch: every ``world``-th picture from the ``rank``-th on.

    Of a last batch with fewer pictures than processes, every process trains on the whole; evaluation reads none twice.
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

    The crop's corner is given as two numbers in [0, 1), or as negative ones for the middle.
    """

    def __init__(self, photos: CachedPhotos | FilePhotos, task: str, strength: float, crop: int):
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
        gt = np.ascontiguousarray(gt[:, ::-1] if flip else gt)
        return degrade(gt, self.task, self.strength, noise_seed), torch.from_numpy(gt)


class CropLoader(Batches):
    """Batches of photographs, the counterpart of :class:`Loader`.

    Source: the release's RandomCrop and horizontal flip in training, CenterCrop in validation, of ``Resize(256)`` pictures.

    Args:
        crop: side of the square, pixels.
        workers: processes that crop and degrade; 0: this one.
        shard: rank and world size: every ``world``-th picture of each batch, from the ``rank``-th on.
    """

    def __init__(
        self, pictures: PictureSet, task: str, strength: float, batch_size: int, flip: bool, crop: int, workers: int = 0,
        shard: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        self.crops = _Crops(pictures.pictures, task, strength, crop)
        self.label, self.batch_size, self.flip = torch.from_numpy(pictures.labels), batch_size, flip
        self.workers, self.shard = min(workers, os.cpu_count() or 1), shard

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Shuffled batches; crops, flips and noise depend on ``seed`` and ``epoch`` alone: every mode sees the same ones."""
        generator, order = self.shuffle(seed, epoch)
        n = len(order)
        corner = torch.rand(n, 2, dtype=torch.float64, generator=generator)
        flip = torch.randint(2, (n,), generator=generator).bool() & self.flip
        noise_seed = torch.randint(2**31, (n,), generator=generator)
        yield from self._batches(order, corner[order], flip[order], noise_seed[order], training=True)

    def ordered(self) -> Iterator[Batch]:
        """Every picture once, in order, its middle, noise seeded by its index: for evaluation."""
        order = torch.arange(len(self.label))
        middle, unflipped = torch.full((len(order), 2), -1.0), torch.zeros(len(order), dtype=torch.bool)
        yield from self._batches(order, middle, unflipped, order, training=False)

    def _batches(
        self, order: torch.Tensor, corner: torch.Tensor, flip: torch.Tensor, noise_seed: torch.Tensor, training: bool
    ) -> Iterator[Batch]:
        columns = (order.tolist(), *corner.T.tolist(), flip.tolist(), noise_seed.tolist())
        batches = list(parts(list(zip(*columns, strict=True)), self.batch_size, self.shard, training))
        loader = DataLoader(
            self.crops, batch_sampler=batches, num_workers=self.workers, pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        for batch, (lq, gt) in zip(batches, loader, strict=True):
            index = torch.tensor([item[0] for item in batch], dtype=torch.int64)
            yield Batch(lq.contiguous(memory_format=torch.channels_last), to_float(gt), self.label[index], index)


def loader_of(pictures: PictureSet, config: Config) -> Loader | CropLoader:
    """The training batches of a run, this process's part of them."""
    shard = distributed.rank(), distributed.world()
    if not pictures.crop:
        return Loader(pictures, config.task, config.strength, config.batch_size, config.flip, shard)
    crop = config.crop or pictures.crop
    return CropLoader(pictures, config.task, config.strength, config.batch_size, config.flip, crop, config.workers, shard)


def evaluation_batches(pictures: PictureSet, config: Config) -> Iterator[Batch]:
    """Every picture once, in order; by several processes, each its part: no picture is read twice to fill a batch."""
    shard = distributed.rank(), distributed.world()
    height, width = pictures.size
    n = max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // (height * width)))
    if not pictures.crop:
        return Loader(pictures, config.task, config.strength, n, False, shard).ordered()
    return CropLoader(pictures, config.task, config.strength, n, False, pictures.crop, config.workers, shard).ordered()


def load_pictures(config: Config, split: str) -> PictureSet:
    """A run's training, validation or test pictures."""
    n = {"train": config.train_images, "val": config.val_images, "test": config.test_images}.get(split, 0)
    if config.of_photographs:
        return registry.resolve(registry.dataset_of(config.dataset).load)(config, split, n)
    return load_split(
        config.dataset, split, n, n_val=config.val_images, data_dir=config.data_dir, size=config.image_size,
        skip_unreadable=config.skip_unreadable,
    )  # fmt: skip


def load_photographs(config: Config, split: str, n: int) -> PictureSet:
    """Photographs in ImageNet's folders, from the cache, or decoded each time (cache_dir "none")."""
    if not config.data_dir:
        raise StudyError("dataset='imagenet' needs its folder; give it with --data or the parameter data_dir")
    folder, to_split = part_of(config.data_dir, split)
    _, half = half_of(config.dataset)
    found = find_photos(folder, labelled=bool(half) or split != "train" or registry.MODES[config.mode].reads_labels)
    count = len(found.files)
    if split == "test" and not to_split:  # in class order, as ImageFolder has it; a part of them is a random one
        index = np.argsort(found.labels, kind="stable")
        index = index[np.sort(split_of(count, 0, n)["test"])] if n else index
    else:
        index = split_of(count, config.val_images, _n_test(config, count) if to_split else 0)[split]
    labels, classes = found.labels, found.classes
    if half:
        low, high = bounds_of(half, len(classes))
        index = index[(low <= labels[index]) & (labels[index] < high)]
        labels, classes = labels - low, classes[low:high]
    photos = FilePhotos(found.folder, found.files, config.resize)
    subset: Callable[[np.ndarray], FilePhotos | CachedPhotos]
    if config.cache_dir == "none":
        if config.skip_unreadable:
            raise StudyError("skip_unreadable needs the cache, which knows what can be read; leave cache_dir='none' out")
        subset = photos.subset
    else:
        cached, usable = open_cache(photos, config.cache_dir, config.workers, config.skip_unreadable)
        index = index[np.isin(index, usable)]
        subset = lambda index: cached.subset(np.searchsorted(usable, index))  # noqa: E731
    if split == "train":
        index = index[: count_of(n, len(index), folder.name, split)]
    if not len(index):
        raise StudyError(f"{config.data_dir}: leaves no pictures for {split}; set {split}_images, or give it a train/ folder")
    return PictureSet(config.dataset, split, subset(index), labels[index], index, classes, config.image_size)


def _n_test(config: Config, count: int) -> int:
    """Test photographs of a folder that is split: ``test_images``, or all that validation leaves."""
    return config.test_images or count - config.val_images


@cache
def data_version(data_dir: str, split: str, resize: int) -> str:
    """Which photographs a split is taken from, in 16 hex digits: a run on another folder is another run."""
    folder, _ = part_of(data_dir, split)
    if not data_dir or not folder.is_dir():
        return "missing"
    return FilePhotos(folder, find_photos(folder, labelled=False).files, resize).digest()[:16]


def write_split(config: Config) -> Path | None:
    """List which photograph belongs to which split, where a folder without ``train/`` was split by seed."""
    folder, to_split = part_of(config.data_dir, "test")
    if not to_split:
        return None
    files = find_photos(folder, labelled=False).files
    parts = split_of(len(files), config.val_images, _n_test(config, len(files)))
    where = {files[k]: split for split, index in parts.items() for k in index}
    path = results_folder(config.preset) / "split.csv"
    write_csv(path, [{"file": name, "split": where[name]} for name in files], ("file", "split"))
    return path
