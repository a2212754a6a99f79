"""Several machines on this one: network namespaces with addresses of their own, or all of them on loopback.

Namespaces need root. What runs in one sees the others by their addresses, has a `localhost` of its own, and nothing else of
any network. All machines see the same files.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator


class Machines:
    """Machines with the names a, b, c ...

    Attributes:
        apart: whether they are namespaces; else all are this machine.
    """

    def __init__(self, names: str, apart: bool):
        self.apart, self._names = apart, names

    def address(self, name: str) -> str:
        """Where the others find a machine."""
        return f"10.77.0.{1 + self._names.index(name)}" if self.apart else "127.0.0.1"

    def at(self, name: str) -> list[str]:
        """What to put before a command, so that it runs there."""
        return ["ip", "netns", "exec", self._space(name)] if self.apart else []

    def _space(self, name: str) -> str:
        return f"maskmill-{os.getpid()}-{name}"

    def _make(self) -> None:
        def ip(line: str) -> None:
            subprocess.run(["ip", *line.split()], check=True, capture_output=True)

        for name in self._names:
            ip(f"netns add {self._space(name)}")
            ip(f"-n {self._space(name)} link set lo up")
        first = self._space(self._names[0])  # the switch is in the first one, where this machine's own network is not
        ip(f"-n {first} link add switch type bridge")
        ip(f"-n {first} addr add {self.address(self._names[0])}/24 dev switch")
        ip(f"-n {first} link set switch up")
        for name in self._names[1:]:
            ip(f"link add to-{name} netns {first} type veth peer name eth0 netns {self._space(name)}")
            ip(f"-n {first} link set to-{name} master switch")
            ip(f"-n {first} link set to-{name} up")
            ip(f"-n {self._space(name)} addr add {self.address(name)}/24 dev eth0")
            ip(f"-n {self._space(name)} link set eth0 up")

    def _remove(self) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", self._space(name)], capture_output=True)


@contextlib.contextmanager
def machines(names: str) -> Iterator[Machines]:
    """Machines, apart where that is possible."""
    made = Machines(names, apart=True)
    try:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            made.apart = False
        else:
            try:
                made._make()
            except subprocess.CalledProcessError:  # root of a container is not always allowed to
                made._remove()
                made.apart = False
        yield made
    finally:
        if made.apart:
            made._remove()
