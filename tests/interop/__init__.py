"""Beside the real thing: networks of tunneld and flanneld hosts on one etcd."""
