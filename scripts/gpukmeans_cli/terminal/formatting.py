"""Numbers as text: counts, file sizes, PSNR, percentages."""


def format_count(number: int, noun: str) -> str:
    """A number with its noun, singular or plural: 1 color, 20 colors."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_sizes(before: int, after: int) -> str:
    """Two sizes in bytes and the ratio of the second to the first: 196.7 kB -> 62.3 kB (32%)."""
    larger = ", larger" if after > before else ""
    return f"{format_size(before)} -> {format_size(after)} ({after / before:.0%}{larger})"


def format_quality(psnr: float | None, without_error: str) -> str:
    """A PSNR in dB, or the text `without_error` for None, which means equal images."""
    return without_error if psnr is None else f"PSNR {psnr:.2f} dB"


def format_size(n_bytes: int) -> str:
    """A number of bytes in decimal units: 640 bytes, 12.3 kB, 4.5 MB."""
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    thousands = round(n_bytes / 1000, 1)  # rounded before the unit is chosen: 999,999 bytes are 1.0 MB
    return f"{thousands:.1f} kB" if thousands < 1000 else f"{n_bytes / 1e6:.1f} MB"


def format_percent(fraction: float) -> str:
    """A positive fraction in percent, never rounded down to 0: 31.2 %, < 0.1 %."""
    return f"{fraction:.1%}".replace("%", " %") if fraction >= 0.0005 else "< 0.1 %"
