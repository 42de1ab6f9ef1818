"""What is left out of a corpus: filters, Gopher's repetition rules, exact duplicates and near-duplicates."""
