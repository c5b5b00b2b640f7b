"""How bytes become slices: formats are recognised, files decoded, those that may attack us in confined processes."""
