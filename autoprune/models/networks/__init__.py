"""Layers of networks that are more than Keras's own: each module has those of one kind of network."""
