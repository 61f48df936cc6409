"""The page of a comparison: one HTML file that needs nothing but itself. It reads the typed result and nothing else."""

from ropo.report.page import render_page, write_page

__all__ = ["render_page", "write_page"]
