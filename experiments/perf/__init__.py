"""Measurements that the README quotes, each a command."""
