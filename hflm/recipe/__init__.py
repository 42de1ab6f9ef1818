"""A recipe: YAML to a frozen `Recipe` (`schema.load`), or all its problems with file and line.

One module holds the keys of one section. The names of the options that are passed through to the libraries stand in
names.json, so that a recipe is checked in milliseconds, without torch, transformers or datasets.
"""
