"""`gpukmeans compare`: print the similarity of two images, and draw both side by side."""

import json
from dataclasses import asdict
from pathlib import Path

import typer

import gpukmeans_cli.options as options
import gpukmeans_cli.validation as validation
from gpukmeans_cli.system.atomic_files import ImageError, check_exists, check_free
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import print_line, warn


def compare(
    a: options.CompareA = None,
    b: options.CompareB = None,
    output: options.SheetOutput = None,
    force: options.Force = False,
    no_sheet: options.NoSheet = False,
    as_json: options.JsonObject = False,
    max_pixels: options.MaxPixels = None,
) -> int:
    """Print the error and similarity of two images, and draw both side by side."""
    a, b = (validation.required(path, "two images", "gpukmeans compare photo.jpg photo-256.png") for path in (a, b))
    validation.check_exclusive({"--no-sheet": no_sheet, "--output": output})
    validation.check_stdin_once([a, b])
    sheet = None
    if not no_sheet:
        validation.check_output_known([a, b], output, "--output or --no-sheet")
        sheet = output or b.parent / f"{a.stem}-{b.stem}-comparison.png"
        validation.check_sheet(sheet, a, b)
    try:
        _check_inputs(a, b)
        if sheet is not None:
            check_free(sheet, overwrite=force)
        import_torch()  # not earlier: the import takes longer than most images
        from gpukmeans_cli.images.comparison import compare_files

        comparison = compare_files(a, b, sheet, force=force, max_pixels=max_pixels)
    except ImageError as error:
        warn(str(error))
        if as_json:
            typer.echo(json.dumps({"a": str(a), "b": str(b), "error": str(error)}))
        return 1
    if as_json:
        typer.echo(json.dumps(asdict(comparison)))
    else:
        print_line(comparison.line())
    return 0


def _check_inputs(*paths: Path) -> None:
    for path in paths:
        try:
            check_exists(path)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from None
