"""The daemon's options as one value, put together from all the places they may be given in.

Strongest first: command line, `TUNNELD_*`, the config file, `FLANNELD_*`, the default. flanneld's
variables come last so that the unit of a flanneld keeps working and everything of ours can
overrule it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Literal

from tunneld.backend.base import SourceCheck
from tunneld.config.options import CONFIG_OPTION, DEFAULT_CONFIG_FILE, OPTIONS, Option
from tunneld.config.sources import (
    Given,
    Source,
    from_arguments,
    from_environment,
    from_file,
    ignored_flanneld_variables,
    unknown_variables,
)
from tunneld.errors import NotBuiltError, UsageError
from tunneld.fib.state import FirewallMark, FirewallMode
from tunneld.lease.model import IPNetwork
from tunneld.log import LogFormat, LogLevel
from tunneld.store import StoreOptions
from tunneld.trust.policy import Mode

CONFIG_VARIABLE = "TUNNELD_CONFIG"

DatapathChoice = Literal["userspace", "kernel"]
SchedulingChoice = Literal["auto", "batch", "normal"]
ThreadsChoice = Literal["auto", "joint", "split"]
ProviderChoice = Literal["auto", "aws-lc-rs", "ring"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Every option of `tunneld run`, read and in range. See `config.options` for their meaning."""

    store: StoreOptions
    state_dir: Path
    control_socket: Path
    iface: tuple[str, ...]
    """Names or addresses, in the order to be tried."""
    iface_regex: tuple[str, ...]
    iface_can_reach: IPv4Address | IPv6Address | None
    public_ip: IPv4Address | None
    public_ipv6: IPv6Address | None
    subnet_file: Path
    lease_ttl_s: float
    renew_margin_s: float
    """How long before its end the lease is renewed at the latest; less than `lease_ttl_s`."""
    ip_masq: bool
    ip_masq_fully_random_disable: bool
    iptables_forward_rules: bool
    """Whether forwarding from and to the network is accepted, by whatever program."""
    firewall: FirewallMode
    underlay_notrack: bool
    bridge_accept_fwmark: FirewallMark | None
    datapath: DatapathChoice
    workers: int
    scheduling: SchedulingChoice
    threads: ThreadsChoice
    """Whether a worker has one thread for both directions, or one for each."""
    source_check: SourceCheck | None
    """None: what the network config says."""
    encryption_floor: Mode | None
    """None: the default of `trust.policy`."""
    identities: Path | None
    psk_file: Path | None
    """None: systemd's credential, where there is one."""
    plain_peers: tuple[IPNetwork, ...]
    """Empty: any peer that never had keys."""
    network_name: str | None
    """None: the prefix."""
    encryption_provider: ProviderChoice
    take_over: bool
    """Whether a lease is taken that another host wrote with a copy of the state directory."""
    healthz_ip: IPv4Address | IPv6Address
    healthz_port: int
    """0: no health server."""
    log_format: LogFormat
    log_level: LogLevel
    ignored: tuple[str, ...] = ()
    """Options and variables of flanneld that were given and have no meaning here."""
    unknown_variables: tuple[str, ...] = ()
    """`TUNNELD_*` variables that no option belongs to."""


def load(
    arguments: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    *,
    ignored: Sequence[str] = (),
) -> RunOptions:
    """Returns the options in force.

    Args:
        arguments: texts of the command line by option name (no dashes), in their order.
        environ: the environment.
        ignored: options of flanneld without a meaning here that the command line named.

    Raises:
        UsageError: a value, a key or the config file is not usable; the message says where.
        NotBuiltError: a value that is known, but cannot be served yet.
    """
    sources = (
        from_arguments(arguments),
        from_environment(environ, "TUNNELD_"),
        _config_file(arguments, environ),
        from_environment(environ, "FLANNELD_"),
    )
    values = {option.name: _value(option, sources) for option in OPTIONS}
    _refuse_what_is_not_built(values, sources)
    return RunOptions(
        store=_store(values),
        lease_ttl_s=values["lease-ttl"],
        renew_margin_s=_renew_margin_s(values, sources),
        ignored=(*dict.fromkeys(ignored), *ignored_flanneld_variables(environ)),
        unknown_variables=tuple(unknown_variables(environ, {CONFIG_VARIABLE})),
        **{
            name: values[name.replace("_", "-")]
            for name in RunOptions.__dataclass_fields__
            if name.replace("_", "-") in values and name != "store"
        },
    )


def _config_file(arguments: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> Source:
    named = [*arguments.get(CONFIG_OPTION, ())][-1:] or [environ.get(CONFIG_VARIABLE, "")]
    if named[0]:
        return from_file(Path(named[0]))
    return from_file(Path(DEFAULT_CONFIG_FILE), is_optional=True)


def _value(option: Option, sources: Sequence[Source]) -> Any:  # noqa: ANN401 - by option
    given = _winner(option.name, sources)
    if given is None:
        if option.default is None:
            return () if option.is_list else None
        given = Given((option.default,), "the default")
    items = tuple(_read(option, text, given.where) for text in given.texts)
    return items if option.is_list else items[0]


def _winner(name: str, sources: Sequence[Source]) -> Given | None:
    return next((source[name] for source in sources if name in source), None)


def _read(option: Option, text: str, where: str) -> Any:  # noqa: ANN401 - by option
    try:
        return option.read(text)
    except ValueError as error:
        shown = "the value" if not option.is_in_file else repr(text)
        raise UsageError(f"{where}: {shown} is not usable; expected {error}") from None


def _store(values: Mapping[str, Any]) -> StoreOptions:
    kind, file = values["store"]
    has_tls = values["etcd-cafile"] is not None or values["etcd-certfile"] is not None
    scheme = "https" if has_tls else "http"
    return StoreOptions(
        kind=kind,
        path=Path(file) if file else None,
        endpoints=tuple(
            endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
            for endpoint in values["etcd-endpoints"]
        ),
        prefix=values["etcd-prefix"],
        keyfile=values["etcd-keyfile"],
        certfile=values["etcd-certfile"],
        cafile=values["etcd-cafile"],
        username=values["etcd-username"],
        password_file=values["etcd-password-file"],
    )


def _renew_margin_s(values: Mapping[str, Any], sources: Sequence[Source]) -> float:
    margin_s = values["subnet-lease-renew-margin"] * 60.0
    ttl_s: float = values["lease-ttl"]
    if margin_s < ttl_s:
        return float(margin_s)
    given = _winner("subnet-lease-renew-margin", sources)
    if given is not None:
        raise UsageError(
            f"{given.where}: {given.texts[0]} minutes are not less than the lease's life of"
            f" {ttl_s:g} s; give a smaller margin or a longer lease-ttl"
        )
    return ttl_s / 2


def _refuse_what_is_not_built(values: Mapping[str, Any], sources: Sequence[Source]) -> None:
    password = _winner("etcd-password", sources)
    if password is not None and values["etcd-password-file"] is None:
        raise NotBuiltError(
            f"{password.where}: taking the password itself is not built yet; put it into a file"
            " that only root can read, and name that with --etcd-password-file"
        )
