"""DICOMweb (PS3.18) of the archive, on aiohttp: search, retrieve, rendered, store."""
