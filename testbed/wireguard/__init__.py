"""The real wireguard-go, built from its Go module."""
