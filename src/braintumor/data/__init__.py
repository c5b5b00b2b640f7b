"""Data sets: folders, manifests, duplicates, splits and synthetic slices. Never sees a network."""
