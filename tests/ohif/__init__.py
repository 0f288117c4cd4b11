"""OHIF, a viewer of others, before the router: `make ohif`."""
