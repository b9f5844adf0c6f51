"""The marks of indexed images: bytes, appearance, time and memory of `gpukmeans compress` relative to peers.

pngquant runs with its default options (speed 4) unless stated otherwise. Processes run alternately on all cores. Their
time is the median of the wall-clock seconds, for gpukmeans less the import of torch.
"""

import itertools
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence

from benchmarks import pngquant
from benchmarks.drawings import drawings, over, with_small_colors
from benchmarks.marks import Mark, NotMeasuredError, measure, need_pngquant, not_measured
from benchmarks.pictures import (
    BUDGETED,
    LOSSY,
    LOSSY_PLAIN,
    NOFS,
    OURS,
    PLAIN,
    PNGQUANT,
    Candidate,
    Row,
    by_pngquant,
    ciede2000,
    gpukmeans,
    read_pixels,
    ssimulacra2_over,
    write,
    write_pictures,
)
from benchmarks.pngquant import COMPRESS
from benchmarks.processes import IMPORT_TORCH, medians, run
from gpukmeans import kmeans, mean_squared_error, quantize, unique_colors

# Upper limits of the mean squared error of K colors on the photos 1 to 8 of the Kodak set.
MSE_TARGETS = {4: 966.0, 16: 208.0, 64: 56.2, 256: 18.5}
# Upper limits of the total bytes relative to pngquant without dithering, at K colors and no higher an error.
PLAIN_LIMITS = {16: 0.74, 64: 0.74, 256: 0.75}
# Lower limits of the mean difference of SSIMULACRA2 to pngquant at K colors, for files of at most the same size.
BUDGET_LIMITS = {16: 20.0, 64: 10.0}
# Limit of the peak memory: bytes for each pixel, and a constant number of bytes.
BYTES_PER_PIXEL, CONSTANT = 40, 64e6
# A pixel is flat if each channel varies by fewer than _FLAT levels among the 3 x 3 pixels around it. It is vivid if its
# chroma in CIELAB is above _VIVID.
_FLAT, _VIVID = 24, 50
_NEAREST = ("--dither", "none", "--lossy", "0")


def marks(rows: Sequence[Row], photos: Mapping[str, np.ndarray], *, quick: bool = False) -> Iterator[Mark]:
    """All marks, each as soon as it is measured. Some are computed from `rows`, the results of `pictures.compare`.

    `photos` are uint8 (H, W, 3) by name. With `quick` the files are small, and most figures mean little.
    """
    runs, side = (1, 300) if quick else (3, 2000)
    cases = {
        "default": partial(_default, rows),
        **{f"without dithering, K = {k}": partial(_without_dithering, rows, k, x) for k, x in PLAIN_LIMITS.items()},
        **{f"bytes of pngquant, K = {k}": partial(_budgets, rows, k, least) for k, least in BUDGET_LIMITS.items()},
        "drawings": _drawings,
        "vivid areas": partial(_vivid, rows, photos),
        "error of K-means": partial(_kmeans, photos, 1 if quick else 5),
        "time of one photo": lambda: _times(
            f"{side} x {side}, seconds", {"large": tiled(photos, side, side)}, runs, 1.5
        ),
        "time of all photos": partial(_times, f"{len(photos)} files in one process, seconds", photos, runs, 1.3),
        "12 megapixels": partial(_large, photos, (400, 300) if quick else (4000, 3000)),
        "GIF": partial(_gifs, photos),
        "same bits": partial(_same_bits, photos),
    }
    return measure(cases)


def seconds_of_import(runs: int = 3) -> float:
    """Median seconds of a process that imports torch."""
    return statistics.median(run(IMPORT_TORCH).seconds for _ in range(runs))


def tiled(photos: Mapping[str, np.ndarray], width: int, height: int) -> np.ndarray:
    """A picture (height, width, 3) tiled with square crops of the photos in turn, each from a random position."""
    side = min(min(pixels.shape[:2]) for pixels in photos.values())
    pixels, random, turns = np.empty((height, width, 3), np.uint8), np.random.default_rng(0), itertools.cycle(photos)
    for y, x in itertools.product(range(0, height, side), range(0, width, side)):
        photo = photos[next(turns)]
        top, left = (int(random.integers(length - side + 1)) for length in photo.shape[:2])
        place = pixels[y : y + side, x : x + side]
        place[:] = photo[top : top + place.shape[0], left : left + place.shape[1]]
    return pixels


def _default(rows: Sequence[Row]) -> Iterator[Mark]:
    case = "default options, 256 colors"
    ours, theirs = _pair(rows, 256, OURS, PNGQUANT)
    yield _kilobytes(f"{case}, bytes", ours.bytes, theirs.bytes, PNGQUANT, 0.66)
    yield _better(f"{case}, SSIMULACRA2 higher", ours, theirs, "ssimulacra2", 1.0)
    yield _better(f"{case}, FLIP lower", ours, theirs, "flip", 0.875)


def _without_dithering(rows: Sequence[Row], k: int, limit: float) -> Iterator[Mark]:
    case, (ours, theirs) = f"--dither none --lossy {LOSSY}, K = {k}", _pair(rows, k, LOSSY_PLAIN, NOFS)
    yield Mark(case=f"{case}, MSE", peer=NOFS, ours=ours.mean("mse"), theirs=theirs.mean("mse"), unit="", limit=1.0)
    yield _kilobytes(f"{case}, bytes", ours.bytes, theirs.bytes, NOFS, limit)


def _budgets(rows: Sequence[Row], k: int, least: float) -> Iterator[Mark]:
    case, (ours, theirs) = f"--max-bytes of pngquant, K = {k}", _pair(rows, k, BUDGETED, PNGQUANT)
    yield _better(f"{case}, SSIMULACRA2 higher", ours, theirs, "ssimulacra2", 1.0)
    yield _better(f"{case}, FLIP lower", ours, theirs, "flip", 1.0)
    for figure, name, limit in (("ssimulacra2", "SSIMULACRA2", least), ("flip", "FLIP", -0.02)):
        yield _difference(f"{case}, {name}", ours.mean(figure), theirs.mean(figure), limit, at_least=limit > 0)
    yield _kilobytes(f"{case}, bytes", ours.bytes, theirs.bytes, PNGQUANT, 1.0)


def _drawings() -> Iterator[Mark]:
    """Bytes and SSIMULACRA2 of drawings at 256 colors."""
    need_pngquant("drawings")
    pictures = drawings()
    sizes: dict[str, list[int]] = {}
    scores: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        sources = write_pictures(pictures, Path(scratch, "sources"))
        for name, candidate in ((OURS, gpukmeans()), (PNGQUANT, by_pngquant())):
            output = write(name, candidate, sources, 256, Path(scratch, name))
            sizes[name] = output.sizes
            scores[name] = list(map(_score, pictures.values(), output.targets))
    for name, ours, theirs in zip(pictures, sizes[OURS], sizes[PNGQUANT], strict=True):
        yield _kilobytes(f"{name}, bytes", ours, theirs, PNGQUANT, None)
    for name, ours, theirs in zip(pictures, scores[OURS], scores[PNGQUANT], strict=True):
        yield _difference(f"{name}, SSIMULACRA2", ours, theirs, None)
    yield _kilobytes("drawings, bytes", sum(sizes[OURS]), sum(sizes[PNGQUANT]), PNGQUANT, 0.85)
    ours, theirs = map(statistics.mean, scores.values())
    yield _difference("drawings, SSIMULACRA2", ours, theirs, -0.5, at_least=True)


def _vivid(rows: Sequence[Row], photos: Mapping[str, np.ndarray]) -> Iterator[Mark]:
    """Mean CIEDE2000 of flat vivid pixels of drawings at 16 colors, and the error on photos beside plain K-means."""
    crop = list(photos.values())[-1][:320, :480]
    pictures = {name: over(pixels, 245) for name, pixels in (drawings() | with_small_colors(crop)).items()}
    with tempfile.TemporaryDirectory() as scratch:
        sources = write_pictures(pictures, Path(scratch, "sources"))

        def figures(name: str, candidate: Candidate) -> list[float]:
            targets = write(name, candidate, sources, 16, Path(scratch, name)).targets
            pairs = zip(pictures.values(), (read_pixels(target, "RGBA")[..., :3] for target in targets), strict=True)
            return [float(ciede2000(before, after)[_is_vivid(before)].mean()) for before, after in pairs]

        case, ours = "vivid areas, K = 16, CIEDE2000", figures(PLAIN, gpukmeans(*_NEAREST))
        yield Mark(case=case, peer="limit", ours=statistics.mean(ours), theirs=2.4, unit="", limit=1.0)
        if pngquant.version():
            theirs = figures(NOFS, by_pngquant("--nofs"))
            yield Mark(case=case, peer=NOFS, ours=statistics.mean(ours), theirs=statistics.mean(theirs), unit="")
            for name, own, other in zip(pictures, ours, theirs, strict=True):
                yield Mark(case=f"{name}, the same", peer=NOFS, ours=own, theirs=other, unit="")
    if row := _find(rows, 16, PLAIN):
        plain = statistics.mean(_plain_error(torch.from_numpy(pixels), 16) for pixels in photos.values())
        case = "photos, K = 16, MSE by that of plain K-means"
        yield Mark(case=case, peer="kmeans", ours=row.mean("mse"), theirs=plain, unit="", limit=1.01)


def _is_vivid(pixels: np.ndarray) -> np.ndarray:
    """Mask (H, W) of the flat pixels of high chroma."""
    import skimage.color  # pyright: ignore[reportMissingImports]

    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    is_flat = np.ptp(windows, axis=(3, 4)).max(axis=2) < _FLAT
    lab = skimage.color.rgb2lab(pixels)
    return is_flat & (np.hypot(lab[..., 1], lab[..., 2]) > _VIVID)


def _plain_error(image: torch.Tensor, k: int) -> float:
    """Mean squared error of the nearest colors of the centers that `kmeans` returns, rounded."""
    histogram = unique_colors(image)
    colors, generator = histogram.colors.float(), torch.Generator().manual_seed(0)
    result = kmeans(colors, k, weights=histogram.counts, init="random", refine=2, tol=1e-4, generator=generator)
    nearest = torch.cdist(colors, result.centers.round()).square().amin(dim=1)
    return float((nearest.double() * histogram.counts).sum() / histogram.counts.sum())


def _kmeans(photos: Mapping[str, np.ndarray], n_seeds: int) -> Iterator[Mark]:
    images = [torch.from_numpy(pixels) for pixels in photos.values()]
    for k, limit in MSE_TARGETS.items():
        errors = []
        for image, seed in itertools.product(images, range(n_seeds)):
            indexed = quantize(image, k, generator=torch.Generator().manual_seed(seed))
            errors.append(mean_squared_error(image, indexed.pixels()))
        case = f"K-means, K = {k}, MSE of {n_seeds} seeds"
        yield Mark(case=case, peer="limit", ours=statistics.mean(errors), theirs=limit, unit="", limit=1.0)


def _large(photos: Mapping[str, np.ndarray], size: tuple[int, int]) -> Iterator[Mark]:
    picture, name = tiled(photos, *size), f"{size[0]} x {size[1]}"
    yield from _times(f"{name}, seconds", {"large": picture}, 1, 1.5)
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch, "large.png"), Path(scratch, "pixel.png")]
        for path, pixels in zip(paths, (picture, picture[:1, :1]), strict=True):
            Image.fromarray(pixels).save(path)
        output = ["-o", f"{scratch}/out.png", "-f", "-q", "--allow-larger"]
        peak, least = (run([sys.executable, COMPRESS, str(path), *output]).peak_bytes for path in paths)
    target = BYTES_PER_PIXEL * picture.shape[0] * picture.shape[1] + CONSTANT
    yield Mark(
        case=f"{name}, peak memory", peer="limit", ours=(peak - least) / 1e6, theirs=target / 1e6, unit="MB", limit=1.0
    )


def _times(case: str, pictures: Mapping[str, np.ndarray], runs: int, limit: float) -> Iterator[Mark]:
    """Seconds of the default options, less the import of torch, beside those of pngquant."""
    need_pngquant(case)
    with tempfile.TemporaryDirectory() as scratch:
        sources = write_pictures(pictures, Path(scratch, "sources"))
        candidates = {OURS: gpukmeans(), PNGQUANT: by_pngquant()}
        for name in candidates:
            Path(scratch, name).mkdir()
        commands = {name: make(sources, 256, Path(scratch, name)) for name, make in candidates.items()}
        costs = medians({"torch": IMPORT_TORCH, **commands}, runs)
    for figure, unit_limit in {"seconds": limit, "cpu_seconds": None}.items():
        torch_figure, ours, theirs = (getattr(costs[name], figure) for name in ("torch", OURS, PNGQUANT))
        name = case if figure == "seconds" else f"{case.removesuffix('seconds')}CPU seconds"
        yield Mark(case=name, peer=PNGQUANT, ours=ours - torch_figure, theirs=theirs, unit="s", limit=unit_limit)


def _gifs(photos: Mapping[str, np.ndarray]) -> Iterator[Mark]:
    """Bytes and error of GIFs reduced from 256 to 64 colors: stills, and an animation of twelve frames."""
    if shutil.which("gifsicle") is None:
        raise NotMeasuredError(not_measured("GIF at 64 colors", "gifsicle"))
    stills = [[Image.fromarray(pixels)] for pixels in photos.values()]
    height, width, _ = next(iter(photos.values())).shape
    box = width // 2, height // 2
    first = stills[0][0]
    pan = [first.crop((4 * number, 2 * number, 4 * number + box[0], 2 * number + box[1])) for number in range(12)]
    for name, animations in {"GIF at 64 colors": stills, "animated GIF at 64 colors": [pan]}.items():
        with tempfile.TemporaryDirectory() as scratch:
            figures = np.array([_reduced_gif(frames, Path(scratch)) for frames in animations])
        ours, theirs = figures[:, :2].sum(axis=0)
        yield _kilobytes(f"{name}, bytes", ours, theirs, "gifsicle -O3", None)
        ours, theirs = figures[:, 2:].mean(axis=0)
        yield Mark(case=f"{name}, MSE", peer="gifsicle -O3", ours=ours, theirs=theirs, unit="")


def _reduced_gif(frames: Sequence[Image.Image], folder: Path) -> tuple[float, ...]:
    """Bytes of the files of gpukmeans and gifsicle, then the mean squared errors of both."""
    source, ours, theirs = (folder / f"{name}.gif" for name in ("source", "ours", "theirs"))
    frames = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    frames[0].save(source, save_all=True, append_images=frames[1:], duration=40)
    run([sys.executable, COMPRESS, str(source), "-k", "64", "-o", str(ours), "-f", "-q", "--allow-larger"])
    run(["gifsicle", "--colors", "64", "-O3", "-o", str(theirs), str(source)])
    before = _frames(source)
    errors = [mean_squared_error(before, _frames(path)) for path in (ours, theirs)]
    return ours.stat().st_size, theirs.stat().st_size, *errors


def _same_bits(photos: Mapping[str, np.ndarray]) -> Iterator[Mark]:
    """The number of equal files when small crops are compressed in one process and in other ways."""
    crops = {name: np.ascontiguousarray(pixels[:160, :160]) for name, pixels in photos.items()}
    with tempfile.TemporaryDirectory() as scratch:
        sources = write_pictures(crops, Path(scratch, "sources"))
        folders = iter(Path(scratch, str(number)) for number in itertools.count())
        compress = gpukmeans()

        def contents(prefix: Sequence[str], files: Sequence[Path]) -> list[bytes]:
            folder = next(folders)
            folder.mkdir()
            run([*prefix, *compress(files, 256, folder)])
            return [path.read_bytes() for path in sorted(folder.iterdir())]

        expected = contents([], sources)
        others = {
            "plain": contents(["env", "GPUKMEANS_NATIVE=0"], sources),
            "one thread": contents(["env", "OMP_NUM_THREADS=1"], sources),
            "alone": [contents([], [source])[0] for source in sources[:2]],
        }
    for way, files in others.items():
        n_equal = sum(one == other for one, other in zip(expected, files, strict=False))
        yield Mark(
            case=f"equal files: {way}", peer="files", ours=n_equal, theirs=len(files), unit="", limit=1.0, at_least=True
        )


def _find(rows: Sequence[Row], k: int, candidate: str) -> Row | None:
    """The row, if it was measured."""
    return next((row for row in rows if (row.n_colors, row.candidate) == (k, candidate) and not row.error), None)


def _pair(rows: Sequence[Row], k: int, ours: str, theirs: str) -> tuple[Row, Row]:
    """The rows of two candidates at K colors. NotMeasuredError if one of them has an error."""
    found = {row.candidate: row for row in rows if row.n_colors == k}
    pair = found[ours], found[theirs]
    for row in pair:
        if row.error:
            error = f"not measured: {row.candidate}: {row.error}"
            raise NotMeasuredError(Mark(case=f"{ours}, K = {k}", peer=theirs, error=error))
    return pair


def _kilobytes(case: str, ours: float, theirs: float, peer: str, limit: float | None) -> Mark:
    return Mark(case=case, peer=peer, ours=ours / 1e3, theirs=theirs / 1e3, unit="kB", limit=limit)


def _better(case: str, ours: Row, theirs: Row, figure: str, limit: float) -> Mark:
    """The number of photos on which `ours` has the better figure, beside the number of all photos."""
    count = ours.count_better(theirs, figure, higher=figure == "ssimulacra2")
    return Mark(case=case, peer="photos", ours=count, theirs=len(ours.photos), unit="", limit=limit, at_least=True)


def _difference(case: str, ours: float, theirs: float, limit: float | None, *, at_least: bool = False) -> Mark:
    return Mark(
        case=case, peer=PNGQUANT, ours=ours, theirs=theirs, unit="", limit=limit, at_least=at_least, by_difference=True
    )


def _score(before: np.ndarray, target: Path) -> float:
    """Mean SSIMULACRA2 of a drawing and the file made of it, over white and, if the drawing has alpha, over black."""
    after = read_pixels(target, "RGBA")
    backgrounds = (0, 255) if before.shape[2] == 4 else (255,)
    return statistics.mean(ssimulacra2_over(before, after, background) for background in backgrounds)


def _frames(path: Path) -> torch.Tensor:
    """The frames of a GIF, uint8 (F, H, W, 3)."""
    with Image.open(path) as image:
        return torch.from_numpy(np.stack([np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]))
