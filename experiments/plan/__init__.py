"""Memory, work and time of a run on devices that are not here; see __main__."""
