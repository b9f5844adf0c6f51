"""Images as arrays: channels, quality, palette usage, sheets, the sample image."""
