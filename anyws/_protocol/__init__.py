"""The protocol: no I/O and no clock. wsproto, and everything it leaves to its callers."""
