"""Read and write DICOM objects, without a network. Only modules here and in `pacs` know DICOM attributes."""
