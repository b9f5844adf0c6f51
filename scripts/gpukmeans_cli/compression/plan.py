"""Input images and the path of the output of each, without conflicts."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpukmeans_cli.formats.gif_scan import is_animated_gif
from gpukmeans_cli.system.atomic_files import STDIO, SUFFIXES

# Suffixes of images in folders. A file that is named is always an input.
_IMAGE_SUFFIXES = {
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2"),
    *(".jpe", ".jpeg", ".jpg", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm"),
    *(".psd", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp"),
}


class PlanError(Exception):
    """Conflicting inputs and outputs; its text is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The path of an image and the path of its output. Both may be `STDIO`."""

    source: Path
    output: Path
    problem: str | None = None
    """Why the source is not compressed: the end of a sentence that begins with its path."""
    is_earlier_output: bool = False
    """Whether a search found the source and the source is the output of an earlier run. Then it is skipped."""


def plan(
    inputs: Sequence[Path],
    *,
    name: str,
    output: Path | None = None,
    folder: Path | None = None,
    recursive: bool = False,
    in_place: bool = False,
) -> list[Job]:
    """A job for each image, in the order of the inputs, sorted by path within a folder.

    An input is a file, `STDIO`, a folder if `recursive`, or, if no file has that name, a `glob` pattern, with ** for
    any folders. Searches skip the output folder. A search of a folder also skips names that begin with a dot, links to
    folders, and files without the suffix of an image. An unreadable input becomes a job with a problem.

    The output is `output`. By default it is `<stem>-<name>.png`, or .gif for an animated GIF, beside the input. With
    `folder` it is in that folder, at the path of the input relative to the folder that was searched, or relative to the
    part of a pattern before its first wildcard. `STDIO` is written to `STDIO`. With `in_place` the output replaces the
    input, and a search finds only PNG and GIF files.

    An image that a search finds is the output of an earlier run if it is at the output path of another job, or is named
    X-N.png or X-N.gif beside another found image X.*, with N from 1 to 256 or "palette". The jobs of these outputs
    come last, and are skipped.

    Raises:
        PlanError: if two jobs have one output, if an output is also an input, or if an `output` is given for several
            inputs or with a suffix that is not in `SUFFIXES`.
    """
    if output not in (None, STDIO) and output.suffix.lower() not in SUFFIXES:
        raise PlanError(f"--output must end in one of {', '.join(SUFFIXES)}, got {output}")
    if folder is not None and os.path.lexists(folder) and not os.path.isdir(folder):
        raise PlanError(f"--output-folder must be a folder, got the file {folder}")
    sources = [source for path in inputs for source in _expand(path, recursive, folder)]
    if output is not None and len(sources) != 1:
        raise PlanError(f"--output takes one input, got {len(sources)}; leave it out to write beside each")
    if STDIO in (source.path for source in sources) and (len(sources) > 1 or folder is not None):
        raise PlanError("standard input must be the only input, and is written to standard output or to --output")
    if in_place:
        return _plan_in_place(sources)
    jobs = [
        Job(source=source.path, output=output or _output_path(source, name, folder), problem=source.problem)
        for source in sources
    ]
    outputs = {os.path.realpath(job.output) for job in jobs if job.problem is None}
    found = {source.path.with_suffix("") for source in sources if source.is_search_result}
    earlier = [
        source.is_search_result and (os.path.realpath(source.path) in outputs or _original(source.path) in found)
        for source in sources
    ]
    kept = [job for job, is_earlier in zip(jobs, earlier, strict=True) if not is_earlier]
    _check_conflicts([job for job in kept if job.problem is None])  # jobs with a problem write nothing
    skipped = [job for job, is_earlier in zip(jobs, earlier, strict=True) if is_earlier]
    return kept + [replace(job, is_earlier_output=True) for job in skipped]


def _plan_in_place(sources: Sequence["_Source"]) -> list[Job]:
    """A job for each PNG and GIF, which is its own output. PlanError for standard input and for repeated inputs."""
    if STDIO in (source.path for source in sources):
        raise PlanError("--in-place replaces files; standard input has none")
    jobs = []
    for source in sources:
        is_writable = source.path.suffix.lower() in (".png", ".gif")
        if is_writable or not source.is_search_result:
            problem = None if is_writable else "is no .png or .gif, which --in-place needs"
            jobs.append(Job(source=source.path, output=source.path, problem=source.problem or problem))
    names = Counter(os.path.realpath(job.source) for job in jobs)
    if repeated := [job.source for job in jobs if names[os.path.realpath(job.source)] > 1]:
        raise PlanError(f"{repeated[0]} is named twice; --in-place replaces a file once")
    return jobs


@dataclass(frozen=True, kw_only=True)
class _Source:
    path: Path
    relative: Path
    """The path relative to the folder that was searched, or the name of a named file."""
    is_search_result: bool = False
    problem: str | None = None


def _expand(path: Path, recursive: bool, output_folder: Path | None) -> Iterator[_Source]:
    """The images of one input."""
    source = _Source(path=path, relative=Path(path.name))
    if path == STDIO or os.path.isfile(path):  # unlike the methods of Path, os.path never raises
        yield source
    elif os.path.isdir(path):
        if recursive:
            yield from _search_folder(path, output_folder)
        else:
            yield replace(source, problem="is a folder; add -r to take the images in it")
    elif glob.has_magic(str(path)) and not os.path.lexists(path):
        yield from _search_pattern(path, output_folder)
    else:
        yield source


def _search_folder(folder: Path, output_folder: Path | None) -> Iterator[_Source]:
    excluded = None if output_folder is None else os.path.realpath(output_folder)
    paths: list[Path] = []
    errors: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = [
            name for name in folders if name[0] != "." and os.path.realpath(os.path.join(parent, name)) != excluded
        ]
        paths += [
            Path(parent, name) for name in names if name[0] != "." and Path(name).suffix.lower() in _IMAGE_SUFFIXES
        ]
    for path in sorted(paths):
        yield _Source(path=path, relative=path.relative_to(folder), is_search_result=True)
    for error in errors:
        path = Path(error.filename)
        problem = f"is a folder that cannot be read ({error.strerror})"
        yield _Source(path=path, relative=Path(path.name), problem=problem)


def _search_pattern(pattern: Path, output_folder: Path | None) -> Iterator[_Source]:
    first = next(index for index, part in enumerate(pattern.parts) if glob.has_magic(part))
    root = Path(*pattern.parts[:first])
    paths = sorted(map(Path, glob.glob(str(pattern), recursive=True)))
    # ** follows links to folders, so one file may have many paths.
    by_real_path = {(os.path.realpath(path.parent), path.name): path for path in reversed(paths)}
    files = [path for path in reversed(by_real_path.values()) if not os.path.isdir(path)]
    if output_folder is not None and os.path.realpath(root) in map(str, Path(os.path.realpath(output_folder)).parents):
        excluded = os.path.realpath(output_folder)
        files = [path for path in files if not Path(os.path.realpath(path.parent)).is_relative_to(excluded)]
    if not files:
        yield _Source(path=pattern, relative=Path(pattern.name), problem="matches no file; check the pattern")
    for path in files:
        yield _Source(path=path, relative=path.relative_to(root), is_search_result=True)


def _original(path: Path) -> Path | None:
    """The path, without suffix, of the image whose default output has this name; None if no default output has it."""
    match = re.fullmatch(r"(.+)-(?:palette|([1-9]\d{0,2}))\.(?:png|gif)", path.name)
    return path.with_name(match[1]) if match and int(match[2] or 1) <= 256 else None


def _output_path(source: _Source, name: str, folder: Path | None) -> Path:
    if source.path == STDIO:
        return STDIO
    suffix = ".gif" if source.problem is None and is_animated_gif(source.path) else ".png"
    file = f"{source.path.stem}-{name}{suffix}"
    return source.path.parent / file if folder is None else folder / source.relative.parent / file


def _check_conflicts(jobs: Sequence[Job]) -> None:
    """PlanError if two jobs have one output, or if the output of one is the source of another."""
    outputs = [os.path.realpath(job.output) for job in jobs]
    if not outputs:
        return
    output, count = Counter(outputs).most_common(1)[0]
    if count > 1:
        same = [job for job, path in zip(jobs, outputs, strict=True) if path == output]
        others = f" and {count - 2} more" if count > 2 else ""
        names = f"{same[0].source} and {same[1].source}{others}"
        raise PlanError(f"{count} inputs would write {same[0].output}: {names}; compress them one by one with --output")
    sources = {os.path.realpath(job.source) for job in jobs}
    if len(jobs) > 1 and (both := [job.output for job, path in zip(jobs, outputs, strict=True) if path in sources]):
        raise PlanError(f"{both[0]} is both an input and an output; compress them one by one")
