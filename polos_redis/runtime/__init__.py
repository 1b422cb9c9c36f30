"""Running a workflow's code: activations, steps and durable state."""
