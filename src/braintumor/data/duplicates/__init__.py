"""Copies of slices in any orientation, and the groups that must stay in the same split."""
