"""The service: a page to look at slices and answers, and the interface behind it."""
