"""Layers that networks of the zoo are made of and Keras does not have."""
