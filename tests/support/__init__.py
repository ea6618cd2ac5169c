"""What test folders share: namespaces, etcd, captures, waiting. No expectations live here."""
