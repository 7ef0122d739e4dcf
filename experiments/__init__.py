"""The training system: from a config to a trained policy and a report."""
