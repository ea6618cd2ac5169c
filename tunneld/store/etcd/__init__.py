"""The store on etcd's API v3: `transport` finds an endpoint, `client` calls it, `store` answers."""
