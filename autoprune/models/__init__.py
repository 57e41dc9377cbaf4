"""Models: named builders, files, fingerprints, and the private parts of Keras that the other stages need."""
