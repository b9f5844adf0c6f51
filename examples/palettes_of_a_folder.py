"""The palettes of all pictures in a folder, as JSON or as CSS custom properties.

python examples/palettes_of_a_folder.py photos -o palettes.css
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from gpukmeans import fit_palette, unique_colors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def read_pixels(path: Path) -> Tensor:
    """The pixels of a picture with an alpha of 128 or more, uint8 (1, N, 3)."""
    with Image.open(path) as picture:
        rgba = torch.from_numpy(np.array(ImageOps.exif_transpose(picture).convert("RGBA"))).to(DEVICE)
    return rgba[rgba[..., 3] >= 128][None, :, :3].contiguous()


def palette_of(pixels: Tensor, n_colors: int) -> list[dict[str, object]]:
    """Colors as #rrggbb and the share of the pixels of each, the largest share first."""
    if pixels.numel() == 0:
        return []
    histogram = unique_colors(pixels)
    palette = fit_palette(histogram, n_colors, space="oklab")  # distances in OKLab are closer to those that people see
    counts = torch.zeros(len(palette.colors), dtype=torch.int64, device=pixels.device)
    counts.index_add_(0, palette.labels.long(), histogram.counts)
    shares = (counts / counts.sum()).tolist()
    colors = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette.colors.tolist()]
    by_share = sorted(zip(colors, shares, strict=True), key=lambda entry: -entry[1])
    return [{"color": color, "share": round(share, 4)} for color, share in by_share]


def palettes_of(folder: Path, n_colors: int) -> dict[str, list[dict[str, object]]]:
    """The palette of each picture that Pillow can read, by file name."""
    readable = Image.registered_extensions()
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in readable)
    return {path.name: palette_of(read_pixels(path), n_colors) for path in paths}


def as_css(palettes: dict[str, list[dict[str, object]]]) -> str:
    """Custom properties --color-1, --color-2 and so on for elements with the attribute data-picture="NAME"."""
    rules = []
    for name, palette in palettes.items():
        lines = [f"  --color-{number}: {entry['color']};" for number, entry in enumerate(palette, start=1)]
        rules.append("\n".join([f"[data-picture={json.dumps(name, ensure_ascii=False)}] {{", *lines, "}"]))
    return "\n".join(rules) + "\n"


def main() -> None:
    """Write the palettes of a folder as a .json or .css file, or print them as JSON."""
    parser = argparse.ArgumentParser(description="Write the palettes of all pictures in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", "--colors", type=int, default=6, help="colors of each palette, 1 to 256")
    parser.add_argument("-o", "--output", type=Path, help="a .json or .css file; by default JSON is printed")
    args = parser.parse_args()
    if args.output is not None and args.output.suffix not in (".json", ".css"):
        parser.error(f"the output must be a .json or .css file, got {args.output}")
    palettes = palettes_of(args.folder, args.colors)
    is_css = args.output is not None and args.output.suffix == ".css"
    text = as_css(palettes) if is_css else json.dumps(palettes, indent=2, ensure_ascii=False) + "\n"
    if args.output is None:
        print(text, end="")
    else:
        args.output.write_text(text, encoding="utf-8")
        print(f"{args.output}: {len(palettes)} palettes")


if __name__ == "__main__":
    main()
