"""Overlays between hosts that are namespaces of this machine."""
