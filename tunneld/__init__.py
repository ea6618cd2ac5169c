"""tunneld: joins the container networks of many hosts into one, in user space."""

__version__ = "0.1.0"
