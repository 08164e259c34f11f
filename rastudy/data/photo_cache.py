"""Photographs of any size, and decoded ones on disk: ``rastudy cache --data DIR``.

Every file is decoded and its shorter side resized once; afterwards a picture is a slice of a memory map, bit for bit what
decoding gives. ImageNet's 1.28 million training photographs take about 0.34 TB at 256 pixels. A cache's folder holds
``index.json`` (what it was made from) and, for every ``SHARD`` pictures, a file of raw pixels with a table of offsets,
shapes and checksums. A table is written after its pixels: a shard with a table is complete, an interrupted build continues.
"""

import argparse
import hashlib
import io
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import PIL
from filelock import FileLock
from PIL import Image

from rastudy.data.image_files import READING, list_pictures, read_whole
from rastudy.errors import StudyError
from rastudy.paths import expand, read_json, shared, write_atomic, write_json

SHARD = 256  # pictures
TABLE = ("offset", "height", "width", "crc32")  # int64 columns of a shard's table; height 0: unreadable, left out


class Photos(Protocol):
    """Photographs that are read one by one: ``self[k]`` is (H, W, 3) uint8, each of another size."""

    def __len__(self) -> int: ...
    def __getitem__(self, k: int) -> np.ndarray: ...
    def subset(self, index: Iterable[int]) -> Self: ...
    def digest(self) -> str: ...


@dataclass(frozen=True, eq=False)
class FilePhotos:
    """Photographs that are decoded at every access."""

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
        """SHA-256 of the files' names and sizes and of ``resize``; the same for a copy of the folder."""
        sha = hashlib.sha256(f"{self.resize}\n".encode())
        for name in self.files:
            sha.update(os.fsencode(f"{name} {self._about(name).st_size}\n"))
        return sha.hexdigest()

    def stamp(self) -> str:
        """What a cache depends on: the digest, the files' times, and the decoder."""
        sha = hashlib.sha256(f"{self.digest()} Pillow {PIL.__version__}, reading {READING}\n".encode())
        for name in self.files:
            sha.update(f"{self._about(name).st_mtime_ns}\n".encode())
        return sha.hexdigest()

    def _about(self, name: str) -> os.stat_result:
        path = self.folder / name
        return path.stat() if path.exists() else path.lstat()  # of a dead link the link's own: decoding names it


@dataclass(frozen=True, eq=False)
class CachedPhotos:
    """Photographs of a complete cache: read-only views of a memory map, whose checksum is verified at every access."""

    folder: Path
    table: np.ndarray  # (N, 1 + len(TABLE)): the shard, then TABLE
    source: FilePhotos

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, k: int) -> np.ndarray:
        shard, offset, height, width, crc = self.table[k].tolist()
        path = pixels_file(self.folder, shard)  # mapped anew each time: thousands of open shards would exhaust file descriptors
        picture = np.memmap(path, np.uint8, "r", offset, (height, width, 3))
        if zlib.crc32(picture.data) != crc:
            raise StudyError(f"{path}: damaged (picture {k}); {_remedy(self.folder)}")
        return picture

    def subset(self, index: Iterable[int]) -> "CachedPhotos":
        index = np.asarray(list(index), np.int64)
        return CachedPhotos(self.folder, self.table[index], self.source.subset(index))

    def digest(self) -> str:
        """The digest of the files."""
        return self.source.digest()


def pixels_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.bin"


def table_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.npy"


def cache_folder(photos: FilePhotos, parent: str | Path = "") -> Path:
    """The folder of these photographs' cache: under ``parent``, by default ``runs/cache``."""
    place = hashlib.sha256(str(photos.folder.absolute()).encode()).hexdigest()[:8]
    caches = expand(parent) if parent else shared() / "cache"
    return caches / f"{photos.folder.name}-{photos.resize}-{place}"


def open_cache(
    photos: FilePhotos, parent: str | Path = "", workers: int = 1, skip_unreadable: bool = False, rebuild: bool = False,
    log: Callable[[str], object] = print,
) -> tuple[CachedPhotos, np.ndarray]:  # fmt: skip
    """Open the cache of photographs; builds the shards that are missing.

    Args:
        parent: where caches lie; by default ``runs/cache``.
        workers: processes that decode.
        rebuild: rebuild what is stale or damaged.

    Returns:
        the photographs that could be read, and their places among ``photos`` (all of them, without ``skip_unreadable``).

    Raises:
        StudyError: a stale or damaged cache, too little disk, or a file that cannot be decoded.
    """
    folder = cache_folder(photos, parent)
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(-(-len(photos) // SHARD))
    with FileLock(folder / "lock"):
        _claim(folder, photos, rebuild)
        for shard in shards if rebuild else ():
            if table_file(folder, shard).is_file() and _damage(folder, shard, deep=True):
                table_file(folder, shard).unlink()
        missing = [shard for shard in shards if not table_file(folder, shard).is_file()]
        if missing:
            _check_disk(folder, photos, len(missing) * SHARD)
            _build(folder, photos, missing, workers, skip_unreadable, log)
    damage = [problem for shard in shards if (problem := _damage(folder, shard, deep=False))]
    if damage:
        raise StudyError(f"{damage[0]}; {_remedy(folder)}")
    whole = np.concatenate([np.insert(np.load(table_file(folder, shard)), 0, shard, axis=1) for shard in shards])
    usable, unreadable = np.flatnonzero(whole[:, 2]), np.flatnonzero(whole[:, 2] == 0)
    if len(unreadable) and not skip_unreadable:
        first = photos.folder / photos.files[unreadable[0]]
        raise StudyError(f"{first}: not a readable picture; mend it and rebuild the cache, or set skip_unreadable")
    if len(unreadable):
        named = ", ".join(photos.files[k] for k in unreadable[:10]) + ", ..." * (len(unreadable) > 10)
        warnings.warn(f"{photos.folder}: skipped {len(unreadable)} pictures that cannot be read: {named}", stacklevel=2)
    return CachedPhotos(folder, whole[usable], photos.subset(usable)), usable


def verify(photos: CachedPhotos) -> list[str]:
    """Compare every checksum; returns what is damaged, in words."""
    return [problem for shard in np.unique(photos.table[:, 0]) if (problem := _damage(photos.folder, int(shard), deep=True))]


def _remedy(folder: Path) -> str:
    return f"rebuild it (rastudy cache with --rebuild), or delete {folder}"


def _claim(folder: Path, photos: FilePhotos, rebuild: bool) -> None:
    """Write what the cache is made from; StudyError where it was made from other files, unless it is to be rebuilt."""
    index, mine = folder / "index.json", {"stamp": photos.stamp(), "pictures": len(photos), "resize": photos.resize}
    theirs = read_json(index) if index.is_file() else None
    if theirs == mine:
        return
    if theirs is not None and not rebuild:
        n = theirs.get("pictures")
        was = (
            f"{n} pictures then, {len(photos)} now"
            if n != len(photos)
            else "their sizes or times, Pillow's version, or how pictures are opened"
        )
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
        return f"{path}: damaged ({size} bytes instead of {needed})"
    if deep:
        pixels = path.read_bytes()
        for offset, height, width, crc in table.tolist():
            if zlib.crc32(pixels[offset : offset + 3 * height * width]) != crc:
                return f"{path}: damaged (a checksum differs)"
    return ""


def _check_disk(folder: Path, photos: FilePhotos, count: int) -> None:
    """Raise StudyError where the disk cannot hold ``count`` more pictures, estimated from the shapes of a sample."""
    needed = expected_bytes(photos) * min(count, len(photos))
    free = shutil.disk_usage(folder).free
    if needed * 1.02 > free:
        raise StudyError(
            f"{folder}: the cache needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; name another place with "
            "cache_dir, or decode every time with cache_dir='none'"
        )


def expected_bytes(photos: FilePhotos, sample: int = 200) -> float:
    """Bytes of a decoded picture, the mean over a sample, of which only the headers are read."""
    areas = []
    for k in np.linspace(0, len(photos) - 1, min(sample, len(photos))).astype(int):
        try:
            with Image.open(photos.folder / photos.files[k]) as image:
                short, long = sorted(image.size)
        except Exception:  # decoding finds and names it
            continue
        areas.append(3 * photos.resize * (long * photos.resize // short) if photos.resize else 3 * short * long)
    return float(np.mean(areas)) if areas else 0.0


def _build(
    folder: Path, photos: FilePhotos, shards: Sequence[int], workers: int, skip_unreadable: bool, log: Callable[[str], object]
) -> None:
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed
        leftover.unlink()
    parts = [photos.subset(range(shard * SHARD, min((shard + 1) * SHARD, len(photos)))) for shard in shards]
    jobs = [folder] * len(parts), shards, parts, [skip_unreadable] * len(parts)
    done = told = 0
    log(f"{folder}: decoding {sum(map(len, parts))} pictures")
    processes = min(workers, len(parts))
    pool = ProcessPoolExecutor(processes, mp_context=get_context("forkserver")) if processes > 1 else None
    with pool or nullcontext():
        for count in (pool.map if pool else map)(_write_shard, *jobs):
            done += count
            if done - told >= len(photos) / 10:
                told = done
                log(f"{folder}: {done} decoded")


def _write_shard(folder: Path, shard: int, photos: FilePhotos, skip_unreadable: bool) -> int:
    rows = []

    def write(path: Path) -> None:
        with path.open("wb") as file:
            for k in range(len(photos)):
                try:
                    picture = photos[k]
                except StudyError:
                    if not skip_unreadable:
                        raise
                    picture = np.empty((0, 0, 3), np.uint8)
                content = picture.tobytes()
                rows.append((file.tell(), *picture.shape[:2], zlib.crc32(content)))
                file.write(content)

    write_atomic(pixels_file(folder, shard), write)
    table = io.BytesIO()
    np.save(table, np.array(rows, np.int64).reshape(-1, len(TABLE)))
    write_atomic(table_file(folder, shard), lambda path: path.write_bytes(table.getvalue()))
    return len(photos)


def cache_command(args: argparse.Namespace) -> int:
    if args.cache_dir == "none":
        raise StudyError("--cache-dir none keeps nothing; name a folder, or leave it out")
    lost = 0
    data = expand(args.data)
    for part in args.part or [name for name in ("train", "val") if (data / name).is_dir()] or [""]:
        files = FilePhotos(data / part, list_pictures(data / part), args.resize)
        photos, usable = open_cache(files, args.cache_dir, args.workers, True, args.rebuild)
        lost += len(files) - len(usable)
        damage = verify(photos) if args.verify else []
        if damage:
            raise StudyError("; ".join([*damage, _remedy(photos.folder)]))
        print(f"{photos.folder}: {len(photos)} pictures{', every checksum agrees' * args.verify}")
    return int(bool(lost) and not args.skip_unreadable)
