"""Image and palette files: reading, writing, metadata, animations."""
