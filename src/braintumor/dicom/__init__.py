"""DICOM as the standard says, without a network. Only modules here and in pacs know its attributes."""
