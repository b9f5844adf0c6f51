"""`gpukmeans compress`: write each input image with a palette, and print a report of each."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gpukmeans_cli.options as options
import gpukmeans_cli.validation as validation
from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.reporter import Reporter
from gpukmeans_cli.system.atomic_files import STDIO, ImageError
from gpukmeans_cli.system.rank_env import device_name
from gpukmeans_cli.system.rank_store import RankStore, raise_on_all_ranks, rank_store
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import warn

if TYPE_CHECKING:
    import numpy as np

    from gpukmeans_cli.compression.settings import Settings


def compress(
    inputs: options.Inputs = None,
    colors: options.Colors = None,
    min_psnr: options.MinPsnr = None,
    quality: options.Quality = None,
    max_bytes: options.MaxBytes = None,
    fixed: options.Fixed = None,
    palette: options.PaletteFile = None,
    shared_palette: options.SharedPalette = False,
    space: options.SpaceName = "srgb",
    dither: options.DitherName = None,
    dither_strength: options.DitherStrength = None,
    lossy: options.Lossy = None,
    recursive: options.Recursive = False,
    jobs: options.Jobs = None,
    skip_existing: options.SkipExisting = False,
    fail_fast: options.FailFast = False,
    dry_run: options.DryRun = False,
    output: options.Output = None,
    output_folder: options.OutputFolder = None,
    in_place: options.InPlace = False,
    force: options.Force = False,
    allow_larger: options.AllowLarger = False,
    effort: options.Effort = 2,
    strip: options.Strip = False,
    max_pixels: options.MaxPixels = None,
    device: options.DeviceName = "auto",
    best: options.Best = False,
    keep_vivid: options.KeepVivid = None,
    init: options.InitName = "random",
    n_init: options.NInit = None,
    refine: options.Refine = None,
    max_iter: options.MaxIter = 100,
    tol: options.Tol = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write each image with a palette of few colors."""
    inputs = validation.required(inputs, "an image", "gpukmeans compress photo.jpg")
    instead_of_k = {"--min-psnr": min_psnr, "--quality": quality, "--max-bytes": max_bytes, "--palette": palette}
    validation.check_exclusive({"--colors": colors, **instead_of_k})
    validation.check_exclusive({"--shared-palette": shared_palette, **instead_of_k})
    validation.check_exclusive({"--palette": palette, "--fixed": fixed, "--best": best})
    validation.check_exclusive({"--palette": palette, "--shared-palette": shared_palette, "--keep-vivid": keep_vivid})
    validation.check_palette_space(palette, space)
    strength = validation.parse_dither_strength(dither, dither_strength)
    validation.check_lossy(dither, lossy)
    target_quality = validation.parse_target(min_psnr, quality, max_bytes)
    n_colors = colors or 256
    has_k = target_quality is None and palette is None
    validation.check_exclusive({"--in-place": in_place, "--output": output, "--output-folder": output_folder})
    validation.check_exclusive({"--in-place": in_place, "--skip-existing": skip_existing, "--force": force})
    validation.check_tol(tol)
    validation.check_device_name(device)
    env = validation.find_rank_env(*inputs, output)

    with rank_store(env) as ranks:
        with raise_on_all_ranks(ranks):
            given_colors = validation.load_colors(fixed, palette, max_fixed=n_colors if target_quality is None else 256)
            if env.is_main and not quiet and _has_only_translucent_colors(given_colors.get("palette")):
                warn(f"--palette {palette} has no opaque color, so opaque pixels become translucent")
            todo: list[Job] = []
            if env.is_main:  # files may appear and vanish, and all ranks must use the same list
                name = str(n_colors) if has_k else "palette"
                todo = validation.plan_jobs(
                    inputs, name=name, output=output, folder=output_folder, recursive=recursive, in_place=in_place
                )
            validation.check_standard_streams(todo, as_json, read_twice=shared_palette)
            import_torch()  # not earlier: the import takes longer than most images
            torch_device = validation.find_device(device_name(device, env))
        todo = ranks.broadcast(todo)[env.rank :: env.size]

        from gpukmeans_cli.compression.batch import compress_all
        from gpukmeans_cli.compression.settings import Settings

        settings = Settings(
            n_colors=n_colors,
            device=torch_device,
            any_device=device == "auto",
            target=target_quality,
            space=space,
            dither=dither,
            dither_strength=strength,
            lossy=lossy,
            force=force or in_place,
            strip=strip,
            effort=effort,
            keep_vivid=keep_vivid,
            allow_larger=allow_larger,
            optional_output=output is None and not in_place,
            max_pixels=max_pixels,
            clustering=_clustering_options(best, init=init, max_iter=max_iter, n_init=n_init, refine=refine, tol=tol),
            seed=seed,
            root=output_folder,
            dry_run=dry_run,
            **given_colors,
        )
        if shared_palette:
            try:
                settings = _with_shared_palette(settings, todo, ranks)
            except ImageError as error:
                if env.is_main:
                    warn(str(error))
                return 1
        to_stdout = any(job.output == STDIO for job in todo)
        reporter = Reporter(
            as_json=as_json, quiet=quiet, verbose=verbose, text_to_stderr=to_stdout, max_bytes=max_bytes is not None
        )
        done = compress_all(
            todo, settings, reporter, n_workers=jobs, skip_existing=skip_existing, fail_fast=fail_fast, ranks=ranks
        )
        return 0 if done else 1


def _clustering_options(best: bool, **given: Any) -> dict[str, Any]:
    """The options for `fit_palette`: the given ones that are not None, and with `best` the defaults of --best."""
    from gpukmeans import BEST_QUALITY

    defaults = BEST_QUALITY if best else {}
    return defaults | {option: value for option, value in given.items() if value is not None}


def _with_shared_palette(settings: "Settings", jobs: Sequence[Job], ranks: RankStore) -> "Settings":
    from gpukmeans_cli.compression.shared_palette import find_shared_palette

    images = [job for job in jobs if not job.is_earlier_output]
    return replace(settings, palette=find_shared_palette(images, settings, ranks))


def _has_only_translucent_colors(colors: "np.ndarray | None") -> bool:
    return colors is not None and colors.shape[1] == 4 and colors[:, 3].max() < 255
