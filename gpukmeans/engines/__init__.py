"""Engines: they assign points to centers and measure moments. The plain engine defines the result."""
