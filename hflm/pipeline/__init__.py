"""A run from the recipe to the model card: stages and their state, provenance, inputs, `hflm fetch`."""
