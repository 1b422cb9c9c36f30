"""The runtime of workflow code: activations, steps and durable state."""
