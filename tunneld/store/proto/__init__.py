"""Generated messages and stubs of etcd's v3 API; `etcd.proto` says how they are made."""
