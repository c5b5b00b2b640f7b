"""Use an archive as source and target: find new images, fetch them, store results. Needs DICOMweb."""
