"""The command `gpukmeans`: arguments, files, devices, progress and reports."""
