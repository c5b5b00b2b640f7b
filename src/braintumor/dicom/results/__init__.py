"""The DICOM objects that we write: overlay, class map and structured report."""
