"""`gpukmeans report`: write an HTML page that shows a photo in several numbers of colors."""

import gpukmeans_cli.options as options
import gpukmeans_cli.validation as validation
from gpukmeans_cli.system.atomic_files import ImageError, check_exists, stream_name
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import print_line, warn


def report(
    photo: options.ReportPhoto = None,
    colors: options.ReportColors = "4,8,16,32,64,128,256",
    space: options.SpaceName = "srgb",
    dither: options.DitherName = None,
    dither_strength: options.DitherStrength = None,
    lossy: options.Lossy = None,
    output: options.ReportOutput = None,
    force: options.Force = False,
    max_pixels: options.MaxPixels = None,
    device: options.DeviceName = "auto",
    seed: options.Seed = 0,
) -> int:
    """Write a page that shows a photo in several numbers of colors, with the size and error of each."""
    photo = validation.required(photo, "an image", "gpukmeans report photo.jpg")
    counts = validation.parse_color_counts(colors)
    strength = validation.parse_dither_strength(dither, dither_strength)
    validation.check_lossy(dither, lossy)
    validation.check_suffix(output, ".html", ".htm")
    validation.check_output_known([photo], output)
    validation.check_device_name(device)

    import_torch()  # not earlier: the import takes longer than most images
    from gpukmeans_cli.compression.settings import Settings
    from gpukmeans_cli.report.report_file import write_report

    settings = Settings(
        n_colors=counts[-1],
        device=validation.find_device(device),
        any_device=device == "auto",
        space=space,
        dither=dither,
        dither_strength=strength,
        lossy=lossy,
        force=force,
        max_pixels=max_pixels,
        seed=seed,
    )
    try:
        check_exists(photo)
        print_line(write_report(photo, output or photo.parent / f"{photo.stem}-report.html", counts, settings))
    except ImageError as error:
        warn(f"{stream_name(photo)}: {error}")
        return 1
    return 0
