"""The command `gpukmeans`: everything that touches files, devices and arguments."""
