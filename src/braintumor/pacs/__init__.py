"""An archive as source and target: what is new, fetching, storing, and the state that survives. Needs DICOMweb."""
