"""The scripts in examples/ do what they claim, in small, and the commands of their README run."""

import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from gpukmeans import kmeans, unique_colors

ROOT = Path(__file__).parents[1]
README = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*)\n```$", README, flags=re.MULTILINE)


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def save_picture(path, color, shape=(20, 30)):
    pixels = np.full((*shape, len(color)), color, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_the_readme_has_one_command_for_each_script():
    scripts = [re.search(r"examples/(\w+\.py)", command)[1] for command in COMMANDS]
    assert sorted(scripts) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python")])
def test_the_commands_of_the_readme_run(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    save_picture(tmp_path / "photos" / "red.png", (255, 0, 0))
    _, script, *args = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [script, *args])
    with torch.random.fork_rng():  # deep clustering sets the global seed
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert capsys.readouterr().out.count("\n") >= 1


class TestCodebook:
    def test_the_error_is_below_that_of_random_rows(self):
        example = load("codebook")
        table = example.make_table(3000, 16)
        embedding = example.quantize_table(table, 64)
        assert example.relative_error(table, embedding.codebook) < 0.8 * example.relative_error(table, table[:64])

    def test_the_error_is_that_of_the_rebuilt_rows(self):
        example = load("codebook")
        table = example.make_table(500, 8)
        embedding = example.quantize_table(table, 32)
        rebuilt = embedding(torch.arange(500))
        expected = (table - rebuilt).square().sum() / (table - table.mean(dim=0)).square().sum()
        assert example.relative_error(table, embedding.codebook) == pytest.approx(float(expected), rel=1e-4)

    def test_a_saved_codebook_gives_the_same_embeddings(self, tmp_path):
        example = load("codebook")
        embedding = example.quantize_table(example.make_table(500, 8), 64)
        example.save(embedding, tmp_path / "codebook.safetensors")
        tokens = torch.arange(500).view(5, 100)
        assert torch.equal(example.load(tmp_path / "codebook.safetensors")(tokens), embedding(tokens))


class TestProductQuantization:
    def test_each_codebook_is_that_of_its_part_alone(self):
        example = load("product_quantization")
        vectors = example.make_vectors(600, 16, seed=1)
        codebooks = example.fit_codebooks(vectors, 4, 32)
        for part, codebook in enumerate(codebooks):
            assert torch.equal(codebook, kmeans(vectors[:, 4 * part : 4 * part + 4], 32).centers)

    def test_asymmetric_distances_are_those_to_the_decoded_vectors(self):
        example = load("product_quantization")
        vectors, queries = example.make_vectors(600, 16, seed=1), example.make_vectors(20, 16, seed=2)
        codebooks = example.fit_codebooks(vectors, 4, 32)
        codes = example.encode(vectors, codebooks)
        assert codes.shape == (600, 4)
        exact = torch.cdist(queries, example.decode(codes, codebooks)).square()
        torch.testing.assert_close(example.asymmetric_distances(queries, codes, codebooks), exact, rtol=1e-3, atol=1e-3)

    def test_longer_codes_find_more_nearest_neighbors(self):
        example = load("product_quantization")
        vectors, queries = example.make_vectors(1000, 32, seed=1), example.make_vectors(100, 32, seed=2)
        exact = torch.cdist(queries, vectors).square()
        found = []
        for n_parts in (2, 8):
            codebooks = example.fit_codebooks(vectors, n_parts, 64)
            distances = example.asymmetric_distances(queries, example.encode(vectors, codebooks), codebooks)
            found.append(example.recall(distances, exact, 10))
        assert found[0] + 0.1 < found[1]
        assert found[1] > 0.8
        assert example.recall(exact, exact, 1) == 1.0


def test_labels_of_deep_clustering_settle_near_the_digits():
    example = load("deep_clustering")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images, digits = (part[:900] for part in example.load_images())
        first, *later = example.train(images, digits, n_clusters=10, n_epochs=4)
    assert first.n_iter == first.n_iter_cold
    assert later[-1].changed < later[0].changed < 0.5
    assert later[-1].agreement > 0.5


class TestPalettesOfAFolder:
    def test_shares_are_of_the_visible_pixels(self, tmp_path):
        example = load("palettes_of_a_folder")
        pixels = np.zeros((4, 10, 4), dtype=np.uint8)
        pixels[:1] = (0, 0, 255, 255)
        pixels[1:] = (255, 128, 0, 255)
        pixels[:, 5:, 3] = 0
        Image.fromarray(pixels).save(tmp_path / "logo.png")
        save_picture(tmp_path / "clear.png", (9, 9, 9, 0))
        (tmp_path / "notes.txt").write_text("no picture")
        blue, orange = {"color": "#0000ff", "share": 0.25}, {"color": "#ff8000", "share": 0.75}
        assert example.palettes_of(tmp_path, 4) == {"clear.png": [], "logo.png": [orange, blue]}

    def test_names_are_quoted_in_css(self, tmp_path):
        example = load("palettes_of_a_folder")
        rule = '[data-picture="a \\"b\\".png"] {\n  --color-1: #010203;\n}\n'
        assert example.as_css({'a "b".png': [{"color": "#010203", "share": 1.0}]}) == rule

    def test_json_and_css_hold_the_same_colors(self, tmp_path, monkeypatch):
        save_picture(tmp_path / "a.png", (1, 2, 3))
        for suffix in ("json", "css"):
            monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), "-o", str(tmp_path / f"out.{suffix}")])
            load("palettes_of_a_folder").main()
        assert json.loads((tmp_path / "out.json").read_text()) == {"a.png": [{"color": "#010203", "share": 1.0}]}
        assert "--color-1: #010203;" in (tmp_path / "out.css").read_text()


class TestVideoPalette:
    @staticmethod
    def video():
        return load("video_palette").synthesized_video(6, 30, 40)

    def test_no_pixel_flickers_in_a_shared_palette_with_ordered_dithering(self):
        example = load("video_palette")
        counts = [
            example.flickering_pixels(self.video, frames)
            for frames in (
                example.in_shared_palette(self.video, 16),
                example.in_shared_palette(self.video, 16, dither="floyd-steinberg"),
                example.in_own_palettes(self.video, 16),
            )
        ]
        assert counts[0] == 0 < counts[1] < counts[2]

    def test_equal_frames_are_equal_in_the_gif(self, tmp_path):
        example = load("video_palette")
        frames = list(self.video())
        still = [frames[0], frames[0], frames[3]]
        result = list(example.in_shared_palette(lambda: iter(still), 16))
        assert torch.equal(result[0].indices, result[1].indices)
        assert not torch.equal(result[1].indices, result[2].indices)
        example.write_gif(tmp_path / "video.gif", example.in_shared_palette(self.video, 16))
        with Image.open(tmp_path / "video.gif") as gif:
            written = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
        expected = [few.pixels().numpy() for few in example.in_shared_palette(self.video, 16)]
        np.testing.assert_array_equal(written, expected)
        assert len(unique_colors(torch.from_numpy(np.concatenate(written))).colors) <= 16


def test_ranks_started_by_torchrun_find_the_centers_of_one_process(monkeypatch, capsys):
    command = next(command for command in COMMANDS if command.startswith("torchrun"))
    args = [sys.executable, "-m", "torch.distributed.run", *shlex.split(command)[1:], "--rows", "2001", "-k", "7"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ranks = subprocess.run(args, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert ranks.returncode == 0, ranks.stderr
    monkeypatch.setattr(sys, "argv", ["x", "--rows", "2001", "-k", "7"])
    load("torchrun_kmeans").main()
    alone = capsys.readouterr().out
    lines = sorted(ranks.stdout.splitlines())
    assert [line.split(":")[0] for line in lines] == ["rank 0 of 2", "rank 1 of 2"]
    assert [int(re.search(r"(\d+) of 2001 rows", line)[1]) for line in lines] == [1001, 1000]
    ends = {line.split("rows, ")[1] for line in [*lines, alone.strip()]}
    assert len(ends) == 1  # iterations, inertia and the digest of the centers
