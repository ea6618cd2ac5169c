"""A virtual machine with Debian's kernel, run for one script; what it writes is the result.

It has no disk and no network: an initial RAM disk with busybox, `ip`, the modules of xfrm and the
program of guest.c. The processor is emulated: KVM is missing on many machines that run tests.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from testbed.debian import unpacked

MODULES: Final = (
    *("jitterentropy_rng", "drbg", "aesni_intel", "gcm", "ghash_generic", "ctr", "seqiv"),
    *("chacha20poly1305", "chacha_generic", "poly1305_generic", "xfrm_user", "esp4", "veth"),
)

_FOLDERS: Final = (
    *("kernel/crypto", "kernel/arch/x86/crypto", "kernel/lib", "kernel/net/ipv4"),
    *("kernel/net/ipv6", "kernel/net/xfrm", "kernel/drivers/net/veth.ko"),
)

_INIT: Final = f"""#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
mkdir -p /run/netns
fail() {{ echo "FAILED $*"; poweroff -f; }}
for module in {" ".join(MODULES)}; do modprobe $module || fail "module $module"; done
. /script
echo GUEST DONE
poweroff -f
"""


def run(script: str, work: Path, seconds: float = 240) -> str:
    """Runs `script` in a guest and returns what came out of it.

    Args:
        script: for busybox's shell. `guest` is the program of guest.c, `/sbin/ip` that of iproute2;
            `fail WHAT` ends the guest.
        work: a directory for files of this run.
        seconds: after as many the guest is ended.

    Raises:
        AssertionError: the script did not come to its end.
    """
    (image,) = kernel().glob("boot/vmlinuz-*")
    disk = _initial_disk(kernel(), image.name.removeprefix("vmlinuz-"), script, work)
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(image), "-initrd", str(disk)),
        *("-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False
        )
        said, errors = done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        said, errors = expired.stdout or b"", expired.stderr or b""
    text = said.decode(errors="replace").replace("\r", "")
    assert "GUEST DONE" in text, f"the guest did not end well:\n{text[-4000:]}\n{errors!r}"
    assert "FAILED" not in text, text
    return text


def kernel() -> Path:
    """Returns the directory with Debian's kernel for virtual machines, and its modules."""
    return unpacked("linux-bookworm", (), ("linux-image-cloud-amd64/bookworm",))


def _initial_disk(linux: Path, version: str, script: str, work: Path) -> Path:
    root = work / "root"
    busybox = unpacked("busybox", ("busybox-static/bookworm",)) / "bin/busybox"
    for folder in ("bin", "sbin", "proc", "sys", "dev", "run", "tmp"):
        (root / folder).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for applet in set(applets.stdout.split()) - {"busybox", "ip"}:
        (root / "bin" / applet).symlink_to("busybox")
    _with_libraries("ip", root)
    source = Path(__file__).with_name("guest.c")
    subprocess.run(["cc", "-O1", "-static", "-o", root / "bin/guest", source], check=True)
    modules = Path("lib/modules") / version
    for name in _FOLDERS:
        source, target = linux / modules / name, root / modules / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    subprocess.run([busybox, "depmod", "-b", root, version], check=True)
    (root / "script").write_text(script)
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    packed = subprocess.run(
        [busybox, "cpio", "-o", "-H", "newc"],
        cwd=root,
        input="\n".join(names).encode(),
        capture_output=True,
        check=True,
    )
    disk = work / "initrd.gz"
    disk.write_bytes(gzip.compress(packed.stdout, 1))
    return disk


def _with_libraries(program: str, root: Path) -> None:
    """Copies a program of this system and what it is linked with."""
    place = shutil.which(program)
    assert place is not None, f"{program} is missing; `make setup` installs it"
    shutil.copy(place, root / "sbin" / program)
    linked = subprocess.run(["ldd", place], capture_output=True, text=True, check=True).stdout
    for library in map(Path, re.findall(r"(/\S+) \(0x", linked)):
        target = root / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
