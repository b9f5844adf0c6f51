"""A codebook of embeddings: vector quantization of the rows of an embedding table.

Each row is replaced by the index of its nearest codebook entry, so a row of 64 float32 numbers becomes one byte.

    python examples/codebook.py
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpukmeans import KMeans, assign

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_table(n_rows: int, dim: int) -> Tensor:
    """An embedding table (n_rows, dim) of rows around 500 topics. Replace it by the weight of your `nn.Embedding`."""
    generator = torch.Generator().manual_seed(0)
    topics = torch.randn(500, dim, generator=generator)
    noise = torch.randn(n_rows, dim, generator=generator)
    return topics[torch.randint(500, (n_rows,), generator=generator)] + 0.3 * noise


def relative_error(table: Tensor, codebook: Tensor) -> float:
    """The mean squared error of the rebuilt table, as a fraction of the variance of the table."""
    _, squared_distances = assign(table, codebook)
    return float(squared_distances.mean() / table.var(dim=0, correction=0).sum())


class QuantizedEmbedding(torch.nn.Module):
    """Embeddings looked up in a codebook (K, D) by the code of each row, uint8 (N,)."""

    codebook: Tensor
    codes: Tensor

    def __init__(self, codebook: Tensor, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codebook", codebook)
        self.register_buffer("codes", codes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings (..., D) of tokens (...)."""
        return self.codebook[self.codes[tokens].long()]  # torch takes a uint8 index for a mask


def quantize_table(table: Tensor, n_codes: int = 256) -> QuantizedEmbedding:
    """The quantized table; at most 256 codes, which fit into a byte."""
    model = KMeans(n_codes, refine=2).fit(table)  # refine= finds a lower error than one plain run
    return QuantizedEmbedding(model.cluster_centers_, model.labels_.to(torch.uint8))


def save(embedding: QuantizedEmbedding, path: Path) -> None:
    """Write the codebook and the codes as a safetensors file."""
    save_file(embedding.state_dict(), path)


def load(path: Path) -> QuantizedEmbedding:
    """Read a file that `save` wrote."""
    return QuantizedEmbedding(**load_file(path))


def main() -> None:
    """Quantize a table, save it, load it, and print error and size."""
    table = make_table(20_000, 64).to(DEVICE)
    embedding = quantize_table(table)
    random_rows = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:256].to(DEVICE)]
    print(f"error with 256 random rows as the codebook: {relative_error(table, random_rows):.1%} of the variance")
    print(f"error with 256 centers of K-means:          {relative_error(table, embedding.codebook):.1%}")

    path = Path("codebook.safetensors")
    save(embedding, path)
    tokens = torch.tensor([[3, 1, 4], [1, 5, 9]])
    assert torch.equal(load(path)(tokens), embedding.cpu()(tokens))
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB instead of {table.nbytes / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
