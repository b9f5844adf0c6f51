"""Images of few colors: color spaces, histograms, palettes, dithering, quantization."""
