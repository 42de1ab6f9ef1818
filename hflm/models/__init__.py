"""Build, load, adapt and save a model; its loss; the arithmetic of its architecture."""
