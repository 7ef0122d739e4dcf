"""How the time and the memory of a step grow with each of its sizes."""
