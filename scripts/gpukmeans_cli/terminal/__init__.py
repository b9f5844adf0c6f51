"""The terminal: messages, progress bars, formatting, color swatches."""
