"""Product quantization (Jégou et al. 2011): nearest-neighbor search in vectors of one byte for each part.

Each vector is cut into M parts. The M codebooks are one batch of K-means problems, solved by one call. Distances from a
query to all codes are sums of M table entries ("asymmetric": the query itself is not quantized).

    python examples/product_quantization.py
"""

import torch
from torch import Tensor

from gpukmeans import assign, kmeans

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_vectors(n: int, dim: int, seed: int) -> Tensor:
    """Vectors (n, dim) with correlated coordinates, as embeddings have. Replace them by your own."""
    mixing = torch.randn(dim // 4, dim, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, dim // 4, generator=generator)
    return torch.tanh(hidden @ mixing / 2) + 0.1 * torch.randn(n, dim, generator=generator)


def split(vectors: Tensor, n_parts: int) -> Tensor:
    """The parts (M, N, D / M) of vectors (N, D): a batch of M problems."""
    return vectors.unflatten(1, (n_parts, -1)).movedim(1, 0)


def fit_codebooks(vectors: Tensor, n_parts: int, n_codes: int = 256) -> Tensor:
    """Codebooks (M, K, D / M) by one batched `kmeans`. Each equals the codebook of that part alone, to the bit."""
    return kmeans(split(vectors, n_parts), n_codes).centers


def encode(vectors: Tensor, codebooks: Tensor) -> Tensor:
    """Codes of vectors, uint8 (N, M)."""
    return assign(split(vectors, len(codebooks)), codebooks).labels.T.to(torch.uint8)


def decode(codes: Tensor, codebooks: Tensor) -> Tensor:
    """The vectors (N, D) that the codes stand for."""
    parts = torch.arange(len(codebooks), device=codes.device)
    return codebooks[parts, codes.long()].flatten(1)


def asymmetric_distances(queries: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Squared distances (Q, N) of queries (Q, D) to the decoded vectors, from a table of each part."""
    tables = torch.cdist(split(queries, len(codebooks)), codebooks).square()  # (M, Q, K)
    distances = torch.zeros(len(queries), len(codes), device=codes.device)
    for table, code in zip(tables, codes.T.long(), strict=True):
        distances += table[:, code]
    return distances


def recall(distances: Tensor, exact: Tensor, n_found: int) -> float:
    """The fraction of queries with the exact nearest neighbor among the `n_found` of the smallest distance."""
    found = distances.topk(n_found, largest=False).indices
    return float((found == exact.argmin(dim=1, keepdim=True)).any(dim=1).float().mean())


def main() -> None:
    """Search 10,000 vectors for the nearest neighbors of 100 queries, with codes of different length."""
    base, queries = make_vectors(10_000, 64, seed=1).to(DEVICE), make_vectors(100, 64, seed=2).to(DEVICE)
    exact = torch.cdist(queries, base).square()
    print("bytes per vector   mean squared error   recall@1   recall@10")
    for n_parts in (4, 8, 16):
        codebooks = fit_codebooks(base[:4_000], n_parts)  # a sample of the vectors is enough for the codebooks
        codes = encode(base, codebooks)
        error = (base - decode(codes, codebooks)).square().sum(dim=1).mean()
        distances = asymmetric_distances(queries, codes, codebooks)
        at_1, at_10 = recall(distances, exact, 1), recall(distances, exact, 10)
        print(f"{n_parts:>16} {error:>20.2f} {at_1:>10.2f} {at_10:>11.2f}")


if __name__ == "__main__":
    main()
