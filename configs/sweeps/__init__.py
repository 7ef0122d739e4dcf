"""One file for each sweep; its docstring says what it measures, by which criterion, and how."""
