"""Brings Docker's bridges onto the leased subnet: options for dockerd, networks, and a check."""
