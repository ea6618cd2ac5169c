"""Containers of real Docker daemons on hosts that tunneld joins."""
