"""Costs of the native core per packet."""
