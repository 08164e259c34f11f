"""Photographs of any size: random crops for training, the middle for evaluation; and the pictures of every data set."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rastudy import distributed
from rastudy.cache import CachedPhotos, FilePhotos, open_cache
from rastudy.config import Config
from rastudy.data import Batch, Batches, Loader, PictureSet, bounds_of, count_of, half_of, load_split, parts, to_float
from rastudy.decode import centre_crop
from rastudy.degrade import degrade
from rastudy.errors import StudyError
from rastudy.files import results_folder, write_csv
from rastudy.imagenet import find_photos, part_of, split_of

NEEDS_NO_LABEL = ("plain", "ra_unsupervised", "perceptual")
EVALUATION_BATCH, EVALUATION_PIXELS = 100, 1_000_000  # most pictures and pixels of a batch; no figure depends on them


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
    """Batches of photographs, the counterpart of :class:`rastudy.data.Loader`.

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
        return _load_photos(config, split, n)
    return load_split(
        config.dataset, split, n, n_val=config.val_images, data_dir=config.data_dir, size=config.image_size,
        skip_unreadable=config.skip_unreadable,
    )  # fmt: skip


def _load_photos(config: Config, split: str, n: int) -> PictureSet:
    """Photographs in ImageNet's folders (:mod:`rastudy.imagenet`), from the cache, or decoded each time (cache_dir "none")."""
    if not config.data_dir:
        raise StudyError("dataset='imagenet' needs its folder; give it with --data or the parameter data_dir")
    folder, to_split = part_of(config.data_dir, split)
    _, half = half_of(config.dataset)
    found = find_photos(folder, labelled=bool(half) or split != "train" or config.mode not in NEEDS_NO_LABEL)
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
