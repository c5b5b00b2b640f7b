"""Load models: their cards and network sessions, the preparation of slices, and the policy of withholding answers."""
