from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.image_files import noise, save
from PIL import Image

from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.rank_store import RankStore
from gpukmeans_cli.system.worker_pool import ProcessPool


@pytest.fixture
def photo(tmp_path):
    """An image of 17 x 11 pixels, all of different colors."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def photos(tmp_path):
    """A folder of eleven images of different sizes, and 05.png, which is no image."""
    for number in range(12):
        save(noise(5 + number, 7, 3), tmp_path / f"{number:02}.png")
    (tmp_path / "05.png").write_text("no image")
    return tmp_path


@pytest.fixture(autouse=True)
def _torch_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run_on_ranks(monkeypatch):
    """A function that runs `work` on the jobs of each rank, with threads as ranks; its results or error messages."""

    def run_on_ranks(jobs, size, work):
        def run_rank(rank):
            try:
                return work(jobs[rank::size], RankStore(RankEnv(rank=rank, size=size), store))
            except ImageError as error:
                return str(error)

        store = torch.distributed.HashStore()
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(run_rank, range(size), timeout=60))

    monkeypatch.setattr(ProcessPool, "unsupported_reason", staticmethod(lambda: "threads must not fork"))
    return run_on_ranks
