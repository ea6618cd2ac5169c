"""A network of namespaces on this machine: hosts with a bridge and a container each, and daemons.

`topology` says what a lab is (pure), `namespaces` makes and removes it, `store` and `daemons`
start what runs in it, `traffic` and `checks` use and judge it, `main_job` is `tunneld lab run`.
The host's own network namespace is not touched.
"""
