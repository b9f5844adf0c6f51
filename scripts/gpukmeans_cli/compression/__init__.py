"""Pictures in, pictures with a palette out: one file, many files, the results."""
