"""Arguments and options of all subcommands: names, bounds, help. The subcommands set the defaults."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

# One constructor of options for each panel of the help.
_color = partial(typer.Option, rich_help_panel="Colors")
_file = partial(typer.Option, rich_help_panel="Files")
_output = partial(typer.Option, rich_help_panel="Output")
_clustering = partial(typer.Option, rich_help_panel="Clustering")
_message = partial(typer.Option, rich_help_panel="Messages")


def _integer(least: int, most: int | None = None) -> Callable[[str | int], int]:
    """Parser of an integer within bounds. The errors of typer's own parser depend on the version of typer."""
    expected = f"must be an integer {_bounds(least, most)}"

    def integer(value: str | int) -> int:
        if not re.fullmatch(r"\s*[-+]?\d{1,30}\s*", str(value)) or not _is_within(int(value), least, most):
            raise typer.BadParameter(f"{expected}, got {str(value)!r}")
        return int(value)

    return integer


def _number(least: float | None = None, most: float | None = None) -> Callable[[str | float], float]:
    """Parser of a number within bounds, or nan."""
    expected = f"must be a number {_bounds(least, most)}".rstrip()

    def number(value: str | float) -> float:
        try:
            parsed = float(value)
        except ValueError:
            raise typer.BadParameter(f"{expected}, got {str(value)!r}") from None
        if not _is_within(parsed, least, most):
            raise typer.BadParameter(f"{expected}, got {str(value)!r}")
        return parsed

    return number


def _is_within(value: float, least: float | None, most: float | None) -> bool:
    return not ((least is not None and value < least) or (most is not None and value > most))


def _bounds(least: float | None, most: float | None) -> str:
    if least is None:
        return ""
    return f"of at least {least}" if most is None else f"from {least} to {most}"


# Names that the library accepts, copied here because importing the library would import torch. That takes longer than
# printing the help.
Init = Literal["k-means++", "k-means||", "random"]
Space = Literal["srgb", "linear", "oklab"]
Dither = Literal["none", "optimized", "floyd-steinberg", "bayer", "blue-noise"]
Metric = Literal["euclidean", "cosine"]
InitOrAuto = Literal["auto", Init]

# Without readable=False, typer would reject all inputs if one cannot be read. Unreadable files are reported later.
_inputs = partial(typer.Argument, show_default=False, readable=False)
_input = partial(typer.Argument, show_default=False)

# Options of several subcommands

Force = Annotated[bool, _output("-f", "--force", help="Overwrite existing files.")]
MaxPixels = Annotated[
    int | None,
    _output(
        metavar="N",
        parser=_integer(1),
        help="Reject images with more pixels in all frames together. Default: Pillow's limit, about 179 million.",
    ),
]
SpaceName = Annotated[Space, _color(help="Color space in which distances are measured.")]
DitherName = Annotated[
    Dither | None,
    _color(
        help="Dithering: optimized for what is visible and for the file size, error diffusion, or ordered. Default: "
        "optimized, or none for animations."
    ),
]
Lossy = Annotated[
    float | None,
    _color(
        metavar="N",
        parser=_number(0, 100_000),
        help="Price of a bit in hundredths of the mean squared error, with --dither none or optimized: 0 for the least "
        "error, more for smaller files. Default: 15 with optimized, else 0.",
    ),
]
DitherStrength = Annotated[
    float | None, _color(metavar="S", parser=_number(0, 1), help="Strength of the dithering, 0 to 1. Default: 1.")
]
DeviceName = Annotated[str, _clustering(help="Device: auto, cpu, cuda or cuda:N.")]
MaxIter = Annotated[int, _clustering(metavar="N", parser=_integer(1), help="Maximum number of iterations of a run.")]
Seed = Annotated[
    int, _clustering(metavar="N", parser=_integer(0, 2**63 - 1), help="Random seed. Equal seeds give equal results.")
]
JsonObject = Annotated[bool, _message("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, _message("-q", "--quiet", help="Print only errors.")]

# compress

Inputs = Annotated[
    list[Path] | None,
    _inputs(metavar="INPUT...", help="Image files, folders with -r, patterns, or - for standard input."),
]
Colors = Annotated[
    int | None,
    _color(
        "-k", "--colors", metavar="K", parser=_integer(1, 256), help="Maximum number of colors, 1 to 256. Default: 256."
    ),
]
MinPsnr = Annotated[
    float | None,
    _color(metavar="DB", parser=_number(), help="Instead of K: the smallest file that reaches this PSNR."),
]
Quality = Annotated[
    float | None,
    _color(
        metavar="Q",
        parser=_number(0, 100),
        help="Instead of K: the smallest file of this quality, about that of SSIMULACRA2: 90 looks like the original, "
        "70 has visible differences.",
    ),
]
MaxBytes = Annotated[
    str | None,
    _color(metavar="SIZE", help="Instead of K: the least visible error in a file of at most this size, such as 40k."),
]
Fixed = Annotated[
    str | None, _color(metavar="COLORS", help="Colors that every palette contains, such as '#ff0000,white'.")
]
PaletteFile = Annotated[
    Path | None,
    _color(
        metavar="FILE",
        help="Map to the colors in this file instead: an image, a .gpl, .pal or .act palette, or a list in hex.",
    ),
]
SharedPalette = Annotated[bool, _color("--shared-palette", help="Use one palette for all inputs.")]
Recursive = Annotated[bool, _file("-r", "--recursive", help="Search folders for images, at any depth.")]
Jobs = Annotated[
    int | None,
    _file(
        "-j",
        "--jobs",
        metavar="N",
        parser=_integer(1),
        help="Number of files processed in parallel. Default: the number of cores, at most 16 with a GPU; ranks of "
        "torchrun divide the cores.",
    ),
]
SkipExisting = Annotated[bool, _file("--skip-existing", help="Skip files whose output exists.")]
FailFast = Annotated[
    bool, _file("--fail-fast", help="Start no file after one has failed; with torchrun, on the same rank only.")
]
DryRun = Annotated[bool, _file("--dry-run", help="Write no file; print what would be written.")]
Output = Annotated[
    Path | None,
    _output(
        "-o",
        "--output",
        help="Output file of a single input: .png, .gif or .webp, or - for standard output. Default: <stem>-<K>.png "
        "beside the input, or <stem>-palette.png without K; .gif for an animated GIF.",
    ),
]
OutputFolder = Annotated[
    Path | None,
    _output("-d", "--output-folder", help="Output folder, created if missing. Subfolders of input folders are kept."),
]
InPlace = Annotated[
    bool,
    _output("--in-place", help="Replace the inputs, which must be PNG or GIF files."),
]
AllowLarger = Annotated[
    bool,
    _output(
        "--allow-larger",
        help="Write the compressed image even if it is no smaller than the input. By default, the input is kept.",
    ),
]
Effort = Annotated[
    int,
    _output(metavar="N", parser=_integer(0, 3), help="Time spent on a small file: 0 fast, 2 balanced, 3 smallest."),
]
Strip = Annotated[bool, _output("--strip", help="Omit resolution, EXIF, XMP, text and profile (colors become sRGB).")]
Best = Annotated[bool, _clustering("--best", help="Search longer for a better palette.")]
KeepVivid = Annotated[
    bool | None,
    _clustering(
        "--keep-vivid/--no-keep-vivid",
        help="Keep a color for small vivid areas, for up to 4 % more squared error. Default: with 8 to 32 colors.",
        show_default=False,
    ),
]
InitName = Annotated[Init, _clustering(help="Method that chooses the initial centers.")]
NInit = Annotated[
    int | None,
    _clustering(metavar="N", parser=_integer(1), help="Number of runs; the best result is kept. Default: 1."),
]
Refine = Annotated[
    int | None,
    _clustering(
        metavar="N",
        parser=_integer(0),
        help="Refinement cycles for the initial centers of each run. Default: 2, or 1 for more than 64 colors.",
    ),
]
Tol = Annotated[
    float | None,
    _clustering(
        metavar="X",
        parser=_number(0),
        help="Stop when an iteration reduces the inertia by no more than this fraction. Default: 0.0001.",
    ),
]
AsJson = Annotated[bool, _message("--json", help="Print one JSON object per file on stdout.")]
Verbose = Annotated[bool, _message("-v", "--verbose", help="Also print tries, engine, convergence and timings.")]

# palette

PaletteInputs = Annotated[list[Path] | None, _inputs(metavar="PHOTO...", help="Image files.")]
PaletteColors = Annotated[
    int, _color("-k", "--colors", metavar="K", parser=_integer(1, 256), help="Maximum number of colors, 1 to 256.")
]
PaletteShared = Annotated[bool, _color("--shared", help="Find one palette for all images.")]
PaletteOutput = Annotated[
    Path | None,
    _output("-o", "--output", help="Write one palette to a file: .gpl for GIMP, .hex for lines like #ff8000."),
]
AsGpl = Annotated[bool, _output("--gpl", help="Print one palette in GIMP's format.")]
PaletteJson = Annotated[bool, _message("--json", help="Print one JSON object per palette on stdout.")]

# compare

CompareA = Annotated[Path | None, _input(metavar="A", help="An image, such as a photo.")]
CompareB = Annotated[Path | None, _input(metavar="B", help="An image of equal size, such as A after compression.")]
SheetOutput = Annotated[
    Path | None,
    _output(
        "-o",
        "--output",
        help="PNG file of both images side by side. Default: <stem of A>-<stem of B>-comparison.png beside B.",
    ),
]
NoSheet = Annotated[bool, _output("--no-sheet", help="Write no comparison sheet.")]

# report

ReportPhoto = Annotated[Path | None, _input(metavar="PHOTO", help="An image file.")]
ReportColors = Annotated[
    str, _color("-k", "--colors", metavar="K,...", help="Maximum numbers of colors, 1 to 256, separated by commas.")
]
ReportOutput = Annotated[
    Path | None, _output("-o", "--output", help="Output file, .html. Default: <stem>-report.html beside the photo.")
]

# demo

DemoPhoto = Annotated[Path | None, _input(help="An image file. Default: a sample image.")]
DemoColors = Annotated[
    int,
    typer.Option("-k", "--colors", metavar="K", parser=_integer(1, 256), help="Maximum number of colors, 1 to 256."),
]
DemoFolder = Annotated[
    Path, typer.Option("-d", "--folder", help="Output folder. Files of the same names are overwritten.")
]

# cluster

ClusterInputs = Annotated[
    list[Path] | None, _inputs(metavar="FILE...", help=".npy, .safetensors or .pt files of rows (N, D), or patterns.")
]
Clusters = Annotated[
    int | None, _clustering("-k", "--clusters", metavar="K", parser=_integer(1), help="Number of clusters.")
]
TensorKey = Annotated[
    str | None,
    _file("--key", metavar="NAME", help="Name of the tensor in .safetensors and .pt files. Default: the only one."),
]
BatchRows = Annotated[
    int | None,
    _file(
        metavar="N",
        parser=_integer(1),
        help="Number of rows read at a time; no effect on the results. Default: about 32 MiB.",
    ),
]
CentersOutput = Annotated[
    Path, _output("-o", "--output", help="Output file: .safetensors for centers, cluster weights and inertia, or .npy.")
]
LabelsFolder = Annotated[
    Path | None,
    _output(
        "--labels",
        metavar="FOLDER",
        help="Write <stem>-labels.npy for each file to this folder, created if missing; all ranks need access to it.",
    ),
]
CheckpointFile = Annotated[
    Path | None, _output("--checkpoint", metavar="FILE", help="Save the state that --resume continues from.")
]
CheckpointEvery = Annotated[
    int, _output("--every", metavar="M", parser=_integer(1), help="Iterations between two checkpoints.")
]
Resume = Annotated[
    bool,
    _output(
        "--resume",
        help="Continue from --checkpoint to the bits of an uninterrupted run. Existing outputs are overwritten.",
    ),
]
MetricName = Annotated[Metric, _clustering(help="Distance between rows and centers.")]
ClusterInit = Annotated[
    InitOrAuto,
    _clustering(
        help="Method that chooses the initial centers. auto: k-means||; k-means++ reads all rows three times for each "
        "center."
    ),
]
ClusterNInit = Annotated[
    int, _clustering(metavar="N", parser=_integer(1), help="Number of runs; the best result is kept.")
]
ClusterRefine = Annotated[
    int,
    _clustering(
        metavar="N",
        parser=_integer(0),
        help="Refinement cycles for the initial centers of each run, each of several passes over all rows.",
    ),
]
ClusterTol = Annotated[
    float,
    _clustering(
        metavar="X", parser=_number(0), help="Stop when an iteration reduces the inertia by no more than this fraction."
    ),
]
DtypeName = Annotated[
    Literal["float32", "float64"] | None,
    _clustering(help="Floats are converted to this type first. Default: float64 stays, others become float32."),
]
Timeout = Annotated[
    float | None,
    _clustering(
        metavar="SECONDS", parser=_number(), help="Maximum time that ranks wait for each other. Default: torch's."
    ),
]
ClusterVerbose = Annotated[bool, _message("-v", "--verbose", help="Also print each iteration.")]
