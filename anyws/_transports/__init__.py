"""Who moves the bytes between a `Protocol` and the network."""
