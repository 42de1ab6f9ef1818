"""What a recipe takes before it runs: parameters, memory, FLOPs, time."""
