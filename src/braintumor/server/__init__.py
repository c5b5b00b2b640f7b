"""Serve the viewer, a page that shows slices and predictions, and the HTTP API behind it."""
