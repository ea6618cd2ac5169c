"""What test folders share beyond the test bed: stores, leases, virtual time, figures."""
