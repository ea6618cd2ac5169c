"""What tests and benchmarks run on: namespaces, processes, etcd, flanneld, booted machines, Docker.

No expectations live here. It imports nothing of pytest, `tests` or `bench`.
"""
