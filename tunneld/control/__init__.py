"""The daemon's faces to the operator: the control socket, the health server, the status."""
