"""The migration guide, carried out on a live network of flanneld hosts."""
