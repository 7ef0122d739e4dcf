"""Bridges to other libraries' training loops, one module each; `import fade_jax` loads none."""
