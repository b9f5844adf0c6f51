"""K-means of rows that are distributed over processes, one per GPU or CPU core, on one machine or several.

Each rank holds its own rows, and all ranks get the same centers. They equal the centers of one process to the bit, for
every number of ranks; the printed digest shows it. Communication does not grow with the number of rows.

    python examples/torchrun_kmeans.py
    torchrun --standalone --nproc-per-node 2 examples/torchrun_kmeans.py
"""

import argparse
import hashlib
import os

import torch
import torch.distributed as dist
from torch import Tensor

from gpukmeans import KMeansResult, kmeans


def make_rows(n_rows: int, dim: int) -> Tensor:
    """All rows (n_rows, dim). Replace them by rows that each rank reads from its own part of a file."""
    generator = torch.Generator().manual_seed(0)
    corners = 4 * torch.randn(50, dim, generator=generator)
    labels = torch.randint(50, (n_rows,), generator=generator)
    return corners[labels] + torch.randn(n_rows, dim, generator=generator)


def cluster_part(rows: Tensor, n_clusters: int, rank: int, world_size: int) -> KMeansResult[Tensor]:
    """Cluster all rows, of which this rank holds a contiguous part. Its labels are those of its part."""
    part = rows.tensor_split(world_size)[rank]
    group = dist.group.WORLD if dist.is_initialized() else None
    return kmeans(part, n_clusters, group=group)


def digest(tensor: Tensor) -> str:
    """The first 16 digits of the SHA-256 of the bytes of a tensor."""
    return hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()[:16]


def main() -> None:
    """Cluster rows on all ranks; each rank prints its own line."""
    parser = argparse.ArgumentParser(description="Cluster rows on the ranks that torchrun starts.")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("-k", "--clusters", type=int, default=50)
    args = parser.parse_args()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if "RANK" in os.environ:  # set by torchrun
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        result = cluster_part(make_rows(args.rows, 16).to(device), args.clusters, rank, world_size)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    print(
        f"rank {rank} of {world_size}: {len(result.labels)} of {args.rows} rows, {int(result.n_iter)} iterations, "
        f"inertia {result.inertia:.1f}, centers {digest(result.centers)}"
    )


if __name__ == "__main__":
    main()
