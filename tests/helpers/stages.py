"""The stages of the compression of one file, for tests that replace the function of a stage."""

from gpukmeans_cli.compression import input_frames, output_choice, palette_fit, pipeline, quantized_image

STAGES = {
    "read_source": pipeline,
    "unique_colors": input_frames,
    "fit_palette": palette_fit,
    "encode_still": quantized_image,
    "write_atomically": output_choice,
}
"""The module that calls the function of a stage, by the name of the function, in the order of the stages."""
