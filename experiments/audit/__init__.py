"""What other frameworks' advantages do, measured on their installed code."""
