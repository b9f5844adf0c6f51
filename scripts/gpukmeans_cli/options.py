"""Options of the command, each with its bounds and its help; their defaults stand where they are taken."""

from pathlib import Path
from typing import Annotated, Literal

import typer

# Panels of the help.
COLORS, FILES, OUTPUT, CLUSTERING, MESSAGES = "Colors", "Files", "Output", "Clustering", "Messages"

# The dicts of these are in modules that import torch, which takes longer than to print the help.
Init = Literal["k-means++", "k-means||", "random"]
Space = Literal["srgb", "linear", "oklab"]
Dither = Literal["none", "floyd-steinberg", "bayer", "blue-noise"]

Inputs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="INPUT...",
        help="Image files, folders with -r, patterns, or - for standard input.",
        show_default=False,
        readable=False,  # else one file that cannot be read would keep all others from being tried
    ),
]

# Files

Recursive = Annotated[
    bool, typer.Option("-r", "--recursive", help="Take the pictures in folders, at any depth.", rich_help_panel=FILES)
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "-j",
        "--jobs",
        metavar="N",
        min=1,
        help="Files worked on at a time. Default: as many as there are cores, 16 at most beside a GPU; ranks of "
        "torchrun share the cores.",
        rich_help_panel=FILES,
        show_default=False,
    ),
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Pass over files whose output is there.", rich_help_panel=FILES)
]
FailFast = Annotated[
    bool,
    typer.Option(
        "--fail-fast",
        help="Begin no file after one failed; each rank of torchrun heeds its own.",
        rich_help_panel=FILES,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Do all but write: say what there would be.", rich_help_panel=FILES)
]

# Colors

Colors = Annotated[
    int | None,
    typer.Option(
        "-k",
        "--colors",
        metavar="K",
        min=1,
        max=256,
        help="Most colors of the palette, 1 to 256. Default: 20.",
        rich_help_panel=COLORS,
        show_default=False,
    ),
]
MinPsnr = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        help="Instead of K: the fewest colors that reach this PSNR.",
        rich_help_panel=COLORS,
        show_default=False,
    ),
]
MaxBytes = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Instead of K: the most colors that fit a file of this size, such as 40k.",
        rich_help_panel=COLORS,
        show_default=False,
    ),
]
Fixed = Annotated[
    str | None,
    typer.Option(
        metavar="COLORS",
        help="Colors that the palette has in any case, such as '#ff0000,#fff'.",
        rich_help_panel=COLORS,
        show_default=False,
    ),
]
PaletteFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Only map to these colors: an image, a GIMP palette or a list in hex.",
        rich_help_panel=COLORS,
        show_default=False,
    ),
]
SharedPalette = Annotated[
    bool, typer.Option("--shared-palette", help="One palette for all inputs.", rich_help_panel=COLORS)
]
SpaceName = Annotated[Space, typer.Option(help="Where colors are near to each other or far.", rich_help_panel=COLORS)]
DitherName = Annotated[Dither, typer.Option(help="How pixels share what their color is off.", rich_help_panel=COLORS)]
DitherStrength = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        min=0,
        max=1,
        help="How much of it, 0 to 1. Default: 1.",
        rich_help_panel=COLORS,
        show_default=False,
    ),
]

# Output

Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Where to write, of one input: .png, .gif or .webp, or - for standard output. Default: <stem>-<K>.png "
        "beside the input, or <stem>-palette.png where there is no K.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
OutputFolder = Annotated[
    Path | None,
    typer.Option(
        "-d",
        "--output-folder",
        help="Where to write, made if it is missing; pictures of folders keep their place.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite an existing output.", rich_help_panel=OUTPUT)]
AllowLarger = Annotated[
    bool,
    typer.Option(
        "--allow-larger",
        help="Write also where the input, of the same format, is no larger, which else is kept.",
        rich_help_panel=OUTPUT,
    ),
]
Optimize = Annotated[
    bool, typer.Option("--optimize", help="Make PNGs smaller by oxipng, which takes longer.", rich_help_panel=OUTPUT)
]
Strip = Annotated[
    bool,
    typer.Option("--strip", help="Leave out color profile, resolution, EXIF, XMP and text.", rich_help_panel=OUTPUT),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Refuse pictures of more pixels. Default: Pillow's limit, about 179 million.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]

# Clustering

DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=CLUSTERING)]
Best = Annotated[bool, typer.Option("--best", help="Search longer for a better palette.", rich_help_panel=CLUSTERING)]
InitName = Annotated[Init, typer.Option(help="How first centers are chosen.", rich_help_panel=CLUSTERING)]
Restarts = Annotated[
    int | None,
    typer.Option(
        min=1, help="Runs, of which the best is kept. Default: 1.", rich_help_panel=CLUSTERING, show_default=False
    ),
]
Refine = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Searches for better centers before a run. Default: 2, for more than 64 colors 1.",
        rich_help_panel=CLUSTERING,
        show_default=False,
    ),
]
MaxIter = Annotated[int, typer.Option(min=1, help="Most rounds of a run.", rich_help_panel=CLUSTERING)]
Tol = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Stop when a round gains no more than this share. Default: 0.0001.",
        rich_help_panel=CLUSTERING,
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Same seed, same bytes.", rich_help_panel=CLUSTERING)]

# Messages

AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object a line on stdout, for each file.", rich_help_panel=MESSAGES)
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.", rich_help_panel=MESSAGES)]
Verbose = Annotated[
    bool,
    typer.Option("-v", "--verbose", help="Also print engine, convergence and timings.", rich_help_panel=MESSAGES),
]
