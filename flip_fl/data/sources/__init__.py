"""Where a site's cohort and images come from."""

from flip_fl.data.sources.base import Source
from flip_fl.data.sources.opening import open_source

__all__ = ["Source", "open_source"]
