"""Decoded photographs on disk: ``rastudy cache --data DIR``.

Every file is decoded and its shorter side resized once; afterwards a picture is a slice of a memory map, bit for bit what
decoding gives. ImageNet's 1.28 million training photographs take about 0.34 TB at 256 pixels. The folder holds
``index.json`` (what it was made from) and, for every ``SHARD`` pictures, a file of raw pixels with a table of offsets,
shapes and checksums. A table is written after its pixels: what has one is complete, and an interrupted build goes on.
"""

import argparse
import hashlib
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock
from PIL import Image

from rastudy.data.image_files import read_whole
from rastudy.data.imagenet import find_photos
from rastudy.errors import StudyError
from rastudy.paths import read_json, root, write_atomic, write_json

SHARD = 256  # pictures
TABLE = ("offset", "height", "width", "crc32")  # int64 columns of a shard's table; a height of 0: left out, unreadable


@dataclass(frozen=True, eq=False)
class FilePhotos:
    """Photographs that are decoded whenever they are asked for: ``self[k]`` is (H, W, 3) uint8."""

    folder: Path
    files: tuple[str, ...]  # relative to the folder
    resize: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, k: int) -> np.ndarray:
        return read_whole(self.folder / self.files[k], self.resize)

    def subset(self, index: Iterable[int]) -> "FilePhotos":
        return replace(self, files=tuple(self.files[k] for k in index))

    def digest(self) -> str:
        """Which photographs these are: names and sizes of the files, and the side asked for; the same in a copy elsewhere."""
        sha = hashlib.sha256(f"{self.resize}\n".encode())
        for name in self.files:
            sha.update(f"{name} {(self.folder / name).stat().st_size}\n".encode())
        return sha.hexdigest()

    def stamp(self) -> str:
        """What a cache of them depends on: the digest, the files' times, and the decoder."""
        sha = hashlib.sha256(f"{self.digest()} Pillow {PIL.__version__}\n".encode())
        for name in self.files:
            sha.update(f"{(self.folder / name).stat().st_mtime_ns}\n".encode())
        return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class CachedPhotos:
    """Photographs of a complete cache: ``self[k]`` is (H, W, 3) uint8, a read-only view of a memory map, checksum compared."""

    folder: Path
    table: np.ndarray  # (N, 1 + len(TABLE)): the shard, then TABLE
    source: FilePhotos

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, k: int) -> np.ndarray:
        shard, offset, height, width, crc = self.table[k].tolist()
        path = pixels_file(self.folder, shard)  # mapped anew each time: thousands of open shards would exhaust file descriptors
        picture = np.memmap(path, np.uint8, "r", offset, (height, width, 3))
        if zlib.crc32(picture) != crc:
            raise StudyError(f"{path}: damaged (picture {k}); {_remedy(self.folder)}")
        return picture

    def subset(self, index: Iterable[int]) -> "CachedPhotos":
        index = np.asarray(list(index), np.int64)
        return CachedPhotos(self.folder, self.table[index], self.source.subset(index))

    def digest(self) -> str:
        """Which photographs these are: those of the files."""
        return self.source.digest()


def pixels_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.bin"


def table_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.npy"


def cache_folder(photos: FilePhotos, parent: str | Path = "") -> Path:
    """Where the cache of a folder's photographs lies: under ``parent``, by default ``runs/cache``."""
    place = hashlib.sha256(str(photos.folder.absolute()).encode()).hexdigest()[:8]
    caches = Path(parent).expanduser() if parent else root() / "runs" / "cache"
    return caches / f"{photos.folder.name}-{photos.resize}-{place}"


def open_cache(
    photos: FilePhotos, parent: str | Path = "", workers: int = 1, skip_unreadable: bool = False, rebuild: bool = False,
    log: Callable[[str], object] = print,
) -> tuple[CachedPhotos, np.ndarray]:  # fmt: skip
    """The cache of photographs, built as far as it is missing.

    Args:
        parent: where caches lie; by default ``runs/cache``.
        workers: processes that decode.
        rebuild: make it anew where it is stale or damaged.

    Returns:
        the photographs that could be read, and their places among ``photos`` (all of them, without ``skip_unreadable``).

    Raises:
        StudyError: a stale or damaged cache, too little disk, or a file that is no picture.
    """
    folder = cache_folder(photos, parent)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        _claim(folder, photos, rebuild)
        shards = range(-(-len(photos) // SHARD))
        if rebuild:
            for shard in shards:
                if table_file(folder, shard).is_file() and _damage(folder, shard, deep=True):
                    table_file(folder, shard).unlink()
        missing = [shard for shard in shards if not table_file(folder, shard).is_file()]
        if missing:
            _check_disk(folder, photos, len(missing) * SHARD)
            _build(folder, photos, missing, workers, skip_unreadable, log)
    damage = [problem for shard in shards if (problem := _damage(folder, shard, deep=False))]
    if damage:
        raise StudyError(f"{damage[0]}; {_remedy(folder)}")
    tables = [np.load(table_file(folder, shard)) for shard in shards]
    whole = np.concatenate([np.insert(table, 0, shard, axis=1) for shard, table in zip(shards, tables, strict=True)])
    (usable,) = np.nonzero(whole[:, 2])
    if len(usable) < len(whole) and not skip_unreadable:
        first = photos.files[int(np.flatnonzero(whole[:, 2] == 0)[0])]
        raise StudyError(
            f"{photos.folder / first}: not a readable picture; mend it and make the cache anew, or set skip_unreadable"
        )
    if len(usable) < len(whole):
        warnings.warn(f"{photos.folder}: skipped {len(whole) - len(usable)} pictures that cannot be read", stacklevel=2)
    return CachedPhotos(folder, whole[usable], photos.subset(usable)), usable


def verify(photos: CachedPhotos) -> list[str]:
    """Compare every checksum; returns what is damaged, in words."""
    return [problem for shard in np.unique(photos.table[:, 0]) if (problem := _damage(photos.folder, int(shard), deep=True))]


def _remedy(folder: Path) -> str:
    return f"rebuild it (rastudy cache with --rebuild), or delete {folder}"


def _claim(folder: Path, photos: FilePhotos, rebuild: bool) -> None:
    """Make the folder this set's, or refuse one that was made from other files."""
    index, mine = folder / "index.json", {"stamp": photos.stamp(), "pictures": len(photos), "resize": photos.resize}
    theirs = read_json(index) if index.is_file() else None
    if theirs == mine:
        return
    if theirs is not None and not rebuild:
        n = theirs.get("pictures")
        was = f"{n} pictures then, {len(photos)} now" if n != len(photos) else "their sizes or times, or Pillow's version"
        raise StudyError(f"{folder}: stale, the files have changed since it was made ({was}); {_remedy(folder)}")
    for path in folder.glob("*.npy"):
        path.unlink()
    write_json(index, mine)


def _damage(folder: Path, shard: int, deep: bool) -> str:
    """What is wrong with a complete shard, in words; empty where nothing is. ``deep`` compares every checksum."""
    path = pixels_file(folder, shard)
    try:
        table = np.load(table_file(folder, shard), allow_pickle=False)
        size, needed = path.stat().st_size, int(3 * (table[:, 1] * table[:, 2]).sum())
    except (OSError, ValueError, IndexError) as error:
        return f"{path}: damaged ({error})"
    if size != needed:
        return f"{path}: damaged ({size} bytes where {needed} belong)"
    if deep:
        pixels = path.read_bytes()
        for offset, height, width, crc in table.tolist():
            if zlib.crc32(pixels[offset : offset + 3 * height * width]) != crc:
                return f"{path}: damaged (a checksum differs)"
    return ""


def _check_disk(folder: Path, photos: FilePhotos, count: int) -> None:
    """Raise StudyError where the disk cannot hold ``count`` more pictures, by the shapes of a sample."""
    needed = expected_bytes(photos) * min(count, len(photos))
    free = shutil.disk_usage(folder).free
    if needed * 1.02 > free:
        raise StudyError(
            f"{folder}: the cache needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; name another place with "
            "cache_dir, or decode every time with cache_dir='none'"
        )


def expected_bytes(photos: FilePhotos, sample: int = 200) -> float:
    """Bytes of a decoded picture, the mean over a sample (of headers alone)."""
    areas = []
    for k in np.linspace(0, len(photos) - 1, min(sample, len(photos))).astype(int):
        try:
            with Image.open(photos.folder / photos.files[k]) as image:
                short, long = sorted(image.size)
        except Exception:  # found again, and named, when it is decoded
            continue
        areas.append(3 * photos.resize * (long * photos.resize // short) if photos.resize else 3 * short * long)
    return float(np.mean(areas)) if areas else 0.0


def _build(
    folder: Path, photos: FilePhotos, shards: Sequence[int], workers: int, skip_unreadable: bool, log: Callable[[str], object]
) -> None:
    for leftover in folder.glob(".*.bin.*"):  # of a process that was killed
        leftover.unlink()
    parts = [photos.subset(range(shard * SHARD, min((shard + 1) * SHARD, len(photos)))) for shard in shards]
    jobs = [(folder, shard, part, skip_unreadable) for shard, part in zip(shards, parts, strict=True)]
    done = told = 0
    log(f"{folder}: decoding {sum(map(len, parts))} pictures")
    for count in _each(jobs, workers):
        done += count
        if done - told >= len(photos) / 10:
            told = done
            log(f"{folder}: {done} decoded")


def _each(jobs: list[tuple], workers: int) -> Iterator[int]:
    if workers <= 1 or len(jobs) == 1:
        yield from (_write_shard(*job) for job in jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("forkserver")) as pool:
        futures = [pool.submit(_write_shard, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_shard(folder: Path, shard: int, photos: FilePhotos, skip_unreadable: bool) -> int:
    rows, offset = [], 0

    def write(path: Path) -> None:
        nonlocal offset
        with path.open("wb") as file:
            for k in range(len(photos)):
                try:
                    picture = photos[k]
                except StudyError:
                    if not skip_unreadable:
                        raise
                    picture = np.empty((0, 0, 3), np.uint8)
                content = picture.tobytes()
                file.write(content)
                rows.append((offset, *picture.shape[:2], zlib.crc32(content)))
                offset += len(content)

    write_atomic(pixels_file(folder, shard), write)
    table = np.array(rows, np.int64).reshape(-1, len(TABLE))
    write_atomic(table_file(folder, shard), lambda path: _save(path, table))
    return len(photos)


def _save(path: Path, table: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save given a path appends .npy to the temporary name
        np.save(file, table)


def cache_command(args: argparse.Namespace) -> None:
    data = Path(args.data).expanduser()
    for part in args.part or [name for name in ("train", "val") if (data / name).is_dir()] or [""]:
        found = find_photos(data / part, labelled=False)
        photos, _ = open_cache(
            FilePhotos(found.folder, found.files, args.resize), args.cache_dir, args.workers, args.skip_unreadable, args.rebuild
        )
        damage = verify(photos) if args.verify else []
        if damage:
            raise StudyError("; ".join([*damage, _remedy(photos.folder)]))
        print(f"{photos.folder}: {len(photos)} pictures{', every checksum agrees' * args.verify}")
