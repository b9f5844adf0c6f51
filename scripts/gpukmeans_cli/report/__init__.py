"""The HTML report of one photo in several numbers of colors."""
