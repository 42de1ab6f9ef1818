"""What leaves the machine: the model card, the Hub, a Space, other file formats."""
