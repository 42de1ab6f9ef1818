"""Ask a model: batched answers, endpoints, free text, log-likelihoods token by token."""
