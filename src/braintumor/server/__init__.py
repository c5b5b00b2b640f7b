"""The service: a page to look at slices and predictions, and the interface behind it."""
