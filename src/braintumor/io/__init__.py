"""Turn bytes into slices: recognise formats and decode files, those that may attack us in confined processes."""
