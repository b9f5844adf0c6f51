"""The report on one compressed file, for tests of its output."""

from gpukmeans_cli.compression.result import CompressionReport

REPORT = CompressionReport(
    input="photos/sea.jpg",
    output="photos/sea-20.png",
    width=640,
    height=427,
    frames=1,
    mode="RGB",
    colors_in=96615,
    colors_out=20,
    bytes_in=196653,
    bytes_out=64400,
    bytes_with_palette=64400,
    dither="optimized",
    lossy=15.0,
    mse=281.25,
    psnr=28.404,
    iterations=32,
    converged=True,
    kept=False,
    written=True,
    device="cuda:1",
    seconds=0.476,
)
