"""Options of a run, and the timer that stops the work on a file."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpukmeans import ColorSpaceName, DitheringName
from gpukmeans_cli.compression.targets import Target
from gpukmeans_cli.system.memory import return_freed_memory
from gpukmeans_cli.system.worker_pool import Event


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that are the same for every file of a run."""

    n_colors: int
    """Maximum number of colors. Ignored with a target or a palette."""
    device: torch.device
    any_device: bool = False
    """Whether small images are clustered on the CPU, where that is faster."""
    target: Target | None = None
    palette: np.ndarray | None = None
    """Colors (K, C) of the output; with them nothing is clustered."""
    fixed: np.ndarray | None = None
    """Colors (F, C) that every palette contains."""
    space: ColorSpaceName = "srgb"
    dither: DitheringName | None = "none"
    """None for the default of the file, see `mapping_options`."""
    dither_strength: float = 1.0
    lossy: float | None = 0.0
    """Price of a bit, in hundredths of the mean squared error (`mapping`); None for the default of the dithering."""
    effort: int = 2
    """0 for the quickest to 3 for the smallest files."""
    keep_vivid: bool | None = None
    """Whether small vivid areas keep a color of their own; None for the default, see `fit_colors`."""
    force: bool = False
    strip: bool = False
    allow_larger: bool = False
    optional_output: bool = False
    """Whether the output has a default name. Then no output is needed if the input is kept."""
    max_pixels: int | None = None
    clustering: dict[str, Any] = field(default_factory=dict)
    """Options of `fit_palette`."""
    seed: int = 0
    root: Path | None = None
    """The folder that must contain all outputs. Missing folders in it are created."""
    dry_run: bool = False
    """Whether the outputs are computed but not written."""
    gpu_lock: AbstractContextManager[Any] | None = None
    """Lock held while a file uses the GPU; None on the CPU."""
    stop: Event = field(default_factory=threading.Event)
    """Set to stop all work before anything else is written."""
    on_try: Callable[[str], None] = lambda text: None
    """Called with a text at the start of each try for the target."""

    @property
    def given_colors(self) -> np.ndarray | None:
        """The palette or the fixed colors; None if neither is given."""
        return self.fixed if self.palette is None else self.palette


class StoppedError(Exception):
    """Work was stopped by `Settings.stop`."""


@dataclass
class StageTimer:
    """Seconds of each stage of one file."""

    device: torch.device
    stop: Event = field(default_factory=threading.Event)
    """Set to stop the work at the end of the current stage."""
    stages: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage, and return freed memory to the system.

        Raises:
            StoppedError: if `stop` is set.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return_freed_memory()
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._last
        self._last = now
        if self.stop.is_set():
            raise StoppedError
