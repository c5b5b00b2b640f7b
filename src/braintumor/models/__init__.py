"""A model: its card, the network session, how slices are prepared for it, and when its answers are withheld."""
