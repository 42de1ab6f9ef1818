"""The local page of `hflm demo`: its state (`session`), its tabs (`tabs`) and its layout (`app`)."""
