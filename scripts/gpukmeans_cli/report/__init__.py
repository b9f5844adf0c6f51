"""The HTML report on one photo in several numbers of colors."""
