"""The embedded archive: instances on disk, an index, DIMSE, DICOMweb and a viewer."""
