"""Which pictures there are to work on, and where each is to be written, so that none gets into the way of another."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpukmeans_cli.system.atomic_files import STDIO, SUFFIXES

# What is taken for a picture in a folder. A file that is named is tried, whatever its name is.
_PICTURES = {
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2"),
    *(".jpe", ".jpeg", ".jpg", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm"),
    *(".psd", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp"),
}


class PlanError(Exception):
    """Inputs and outputs that do not fit together, as a sentence."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A picture and the file to write it to, either of which may be `STDIO`."""

    source: Path
    target: Path
    problem: str | None = None
    """Why the source cannot even be tried, as a sentence to put after its path."""


def plan(
    inputs: Sequence[Path],
    *,
    name: str,
    output: Path | None = None,
    folder: Path | None = None,
    recursive: bool = False,
) -> list[Job]:
    """A job for each picture, in the order of the inputs, those of a folder by their paths.

    An input is a file, `STDIO`, a folder if `recursive`, or, if there is no file of that name, a pattern as of `glob`,
    with ** for any folders. In folders, those that begin with a dot are passed over, links to folders are not
    entered, and files count by their suffix. One that cannot be read is a job with a problem.
    What lies in an output folder in the folder that is searched, also by a pattern, is passed over.

    The output is `output`, else `<stem>-<name>.png` beside the input or, if there is a `folder`, at the place in it
    that the input has in its own: below the folder or the part of a pattern before its first wildcard. `STDIO` is
    written to `STDIO`. What was found and would be written by another job is taken for its output of an earlier run,
    and passed over.

    Raises PlanError if two jobs would write one file, or one what another reads, and for an `output` of several inputs
    or without one of `SUFFIXES`.
    """
    if output not in (None, STDIO) and output.suffix.lower() not in SUFFIXES:
        raise PlanError(f"--output must end in one of {', '.join(SUFFIXES)}, got {output}")
    if folder is not None and os.path.lexists(folder) and not os.path.isdir(folder):
        raise PlanError(f"--output-folder must be a folder, got the file {folder}")
    found = [each for path in inputs for each in _found(path, recursive, folder)]
    if output is not None and len(found) != 1:
        raise PlanError(f"--output takes one input, got {len(found)}; leave it out to write beside each")
    if STDIO in (each.source for each in found) and (len(found) > 1 or folder is not None):
        raise PlanError("standard input is taken alone, and written to standard output or to --output")
    jobs = [
        (each, Job(source=each.source, target=output or _target(each, name, folder), problem=each.problem))
        for each in found
    ]
    targets = {os.path.realpath(job.target) for _, job in jobs if job.problem is None}
    kept = [job for each, job in jobs if not (each.sought and os.path.realpath(job.source) in targets)]
    _check_apart([job for job in kept if job.problem is None])  # the others write nothing
    return kept


@dataclass(frozen=True, kw_only=True)
class _Found:
    source: Path
    place: Path
    """Where it lies below the folder that it was sought in."""
    sought: bool = False
    """Whether it was found, and not named."""
    problem: str | None = None


def _found(path: Path, recursive: bool, folder: Path | None) -> Iterator[_Found]:
    named = _Found(source=path, place=Path(path.name))
    if path == STDIO or os.path.isfile(path):  # which, unlike those of Path, never raise
        yield named
    elif os.path.isdir(path):
        if recursive:
            yield from _below(path, folder)
        else:
            yield replace(named, problem="is a folder; add -r to take the pictures in it")
    elif glob.has_magic(str(path)) and not os.path.lexists(path):
        yield from _matching(path, folder)
    else:
        yield named


def _below(folder: Path, passed_over: Path | None) -> Iterator[_Found]:
    skipped = None if passed_over is None else os.path.realpath(passed_over)
    paths: list[Path] = []
    unread: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unread.append):
        folders[:] = [
            name for name in folders if name[0] != "." and os.path.realpath(os.path.join(parent, name)) != skipped
        ]
        paths += [Path(parent, name) for name in names if name[0] != "." and Path(name).suffix.lower() in _PICTURES]
    for path in sorted(paths):
        yield _Found(source=path, place=path.relative_to(folder), sought=True)
    for error in unread:
        path = Path(error.filename)
        yield _Found(source=path, place=Path(path.name), problem=f"is a folder that cannot be read ({error.strerror})")


def _matching(pattern: Path, passed_over: Path | None) -> Iterator[_Found]:
    first = next(index for index, part in enumerate(pattern.parts) if glob.has_magic(part))
    root = Path(*pattern.parts[:first])
    paths = sorted(map(Path, glob.glob(str(pattern), recursive=True)))
    # ** follows links to folders, by which one file has many paths.
    by_place = {(os.path.realpath(path.parent), path.name): path for path in reversed(paths)}
    files = [path for path in reversed(by_place.values()) if not os.path.isdir(path)]
    if passed_over is not None and os.path.realpath(root) in map(str, Path(os.path.realpath(passed_over)).parents):
        skipped = os.path.realpath(passed_over)
        files = [path for path in files if not Path(os.path.realpath(path.parent)).is_relative_to(skipped)]
    if not files:
        yield _Found(source=pattern, place=Path(pattern.name), problem="matches no file; check the pattern")
    for path in files:
        yield _Found(source=path, place=path.relative_to(root), sought=True)


def _target(found: _Found, name: str, folder: Path | None) -> Path:
    if found.source == STDIO:
        return STDIO
    file = f"{found.source.stem}-{name}.png"
    return found.source.parent / file if folder is None else folder / found.place.parent / file


def _check_apart(jobs: Sequence[Job]) -> None:
    """PlanError if two jobs would write one file, or one what another reads."""
    targets = [os.path.realpath(job.target) for job in jobs]
    if not targets:
        return
    target, times = Counter(targets).most_common(1)[0]
    if times > 1:
        one = next(job for job, path in zip(jobs, targets, strict=True) if path == target)
        raise PlanError(f"{times} inputs would write {one.target}; compress them one by one with --output")
    sources = {os.path.realpath(job.source) for job in jobs}
    if len(jobs) > 1 and (both := [job.target for job, path in zip(jobs, targets, strict=True) if path in sources]):
        raise PlanError(f"{both[0]} is both an input and an output; compress them one by one")
