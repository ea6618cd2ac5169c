"""Measures tunneld beside the kernel's vxlan and flannel's udp on one machine.

`topology` builds two hosts for each of them, `overlays` joins the two, `traffic` measures from
container to container while `cpu` counts, `rounds` says in which order, `raw` keeps what was seen.
Method: docs/performance.md.
"""
