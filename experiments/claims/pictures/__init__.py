"""What the claims page draws beyond what experiments.report draws."""
