"""The real flanneld, built from its Go module."""
