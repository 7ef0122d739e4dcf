"""The reference benchmark of advantages: 25 methods on four tasks, each at its own tuned rate."""
