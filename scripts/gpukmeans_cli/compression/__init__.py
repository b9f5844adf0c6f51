"""Image files to image files with a palette: plan, pipeline, batches, results."""
