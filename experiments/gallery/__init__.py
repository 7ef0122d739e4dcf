"""The gallery: masses, ratio, expected weight and objective of every advantage, on one page."""

from experiments.gallery.write import write_gallery

__all__ = ["write_gallery"]
