"""How long packets are lost when something happens to a host: crash, flush, migration."""
