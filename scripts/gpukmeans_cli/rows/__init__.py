"""Rows in files: reading, clustering, labels, checkpoints."""
