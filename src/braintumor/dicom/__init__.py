"""DICOM in and out: the only code that knows tags."""
