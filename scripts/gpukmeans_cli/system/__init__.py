"""The machine: start-up, devices, files written atomically, ranks, worker processes."""
