"""Access to the machine: start-up, devices, atomic writes, ranks, worker processes."""
