"""One file for each experiment and each sweep; its docstring gives the command."""
