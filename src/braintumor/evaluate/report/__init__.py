"""Reports as pages, pictures and JSON."""
