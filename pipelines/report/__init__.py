"""The mask-quality report: what is measured per image, how it merges, the numbers, the page."""
