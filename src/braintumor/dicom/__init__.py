"""DICOM: what is read and what is written. Only modules in here know its attributes; none is imported before use."""
