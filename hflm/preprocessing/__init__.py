"""From texts to token ids: the tokenizer, encoded texts kept on disk, packed rows, packed streams."""
