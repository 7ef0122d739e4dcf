"""Tasks: prompts, verified rewards and demonstrations, one module each."""
