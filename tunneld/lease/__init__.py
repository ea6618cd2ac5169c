"""The lease: what it is, how a subnet is chosen, how the table of leases is followed and kept."""
