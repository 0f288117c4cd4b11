"""Replication: fills the archive from the primary, and brings back to the primary what it is owed."""
