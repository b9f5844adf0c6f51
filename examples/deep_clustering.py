"""Deep clustering (Caron et al. 2018) with warm starts: an encoder learns from the clusters of its own embeddings.

In each epoch K-means clusters the embeddings of the images. Then the encoder is trained to assign shifted images to the
clusters of the images, with the centers as the classifier. K-means starts from the centers of the epoch before, so
clusters keep their number from epoch to epoch. Once the encoder settles, few labels change and few iterations are
needed.

    python examples/deep_clustering.py
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from gpukmeans import kmeans

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Epoch:
    """Iterations of K-means (warm and cold start), fraction of changed labels, agreement with the digits."""

    n_iter: int
    n_iter_cold: int
    changed: float
    agreement: float


def shift(images: Tensor) -> Tensor:
    """Images (N, 1, 8, 8), each shifted by up to one pixel in both directions."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1)  # (N, 1, 3, 3, 8, 8)
    rows, columns = torch.randint(3, (2, len(images)), device=images.device)
    return windows[torch.arange(len(images), device=images.device), :, rows, columns]


def make_encoder() -> nn.Sequential:
    """A small network from images (N, 1, 8, 8) to embeddings (N, 64)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))


def train(images: Tensor, digits: Tensor, n_clusters: int, n_epochs: int) -> list[Epoch]:
    """Train encoder and clusters together. The digits are only compared with the clusters, never learned from."""
    encoder = make_encoder().to(images.device)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    history, centers, labels = [], None, None
    for _ in range(n_epochs):
        with torch.no_grad():
            embeddings = encoder(images)
        cold = kmeans(embeddings, n_clusters, metric="cosine")  # after the first epoch only for comparison
        warm = cold if centers is None else kmeans(embeddings, n_clusters, metric="cosine", init=centers)
        changed = 1.0 if labels is None else float((warm.labels != labels).float().mean())
        centers, labels = warm.centers, warm.labels
        agreement = float(normalized_mutual_info_score(digits, labels.cpu()))
        history.append(Epoch(int(warm.n_iter), int(cold.n_iter), changed, agreement))
        for batch in torch.randperm(2 * len(images)).to(images.device).remainder(len(images)).split(128):
            cosines = nn.functional.normalize(encoder(shift(images[batch]))) @ centers.T
            loss = nn.functional.cross_entropy(cosines / 0.1, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return history


def load_images() -> tuple[Tensor, Tensor]:
    """The handwritten digits of scikit-learn, float32 (1797, 1, 8, 8) from 0 to 1, and the digit of each."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return images.to(DEVICE), torch.tensor(data.target)


def main() -> None:
    """Train for seven epochs and print what K-means did in each."""
    torch.manual_seed(0)
    images, digits = load_images()
    print("epoch   iterations, warm   cold   labels changed   mutual information with the digits")
    for number, epoch in enumerate(train(images, digits, n_clusters=10, n_epochs=7)):
        print(f"{number:>5} {epoch.n_iter:>18} {epoch.n_iter_cold:>6} {epoch.changed:>16.1%} {epoch.agreement:>12.3f}")


if __name__ == "__main__":
    main()
