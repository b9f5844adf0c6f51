"""`gpukmeans palette`: print or write the palette of each image, with the fraction of pixels of each color."""

import gpukmeans_cli.options as options
import gpukmeans_cli.validation as validation
from gpukmeans_cli.system.startup import import_torch


def palette(
    inputs: options.PaletteInputs = None,
    colors: options.PaletteColors = 8,
    shared: options.PaletteShared = False,
    as_gpl: options.AsGpl = False,
    output: options.PaletteOutput = None,
    force: options.Force = False,
    max_pixels: options.MaxPixels = None,
    device: options.DeviceName = "auto",
    seed: options.Seed = 0,
    as_json: options.PaletteJson = False,
) -> int:
    """Print the palette of each image, with the fraction of pixels mapped to each color."""
    inputs = validation.required(inputs, "an image", "gpukmeans palette photo.jpg")
    validation.check_exclusive({"--json": as_json, "--gpl": as_gpl, "--output": output})
    validation.check_suffix(output, ".gpl", ".hex")
    validation.check_single_palette(1 if shared else len(inputs), as_gpl, output)
    validation.check_stdin_once(inputs)
    validation.check_device_name(device)

    import_torch()  # not earlier: the import takes longer than most images
    from gpukmeans_cli.images.palette_report import PaletteTask, report_palettes

    task = PaletteTask(
        n_colors=colors,
        device=validation.find_device(device),
        max_pixels=max_pixels,
        seed=seed,
        shared=shared,
        as_json=as_json,
        as_gpl=as_gpl,
        output=output,
        force=force,
    )
    return 0 if report_palettes(inputs, task) else 1
