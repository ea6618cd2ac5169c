"""`python -m tunneld.bench.agent [ADDRESS]`: one end of a measurement, in a namespace.

Orders come as JSON lines on stdin, answers go as JSON lines to stdout; with an address it is a far
end, which listens there on a port of its own and says it first. It ends with its stdin.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any, Final

from tunneld.bench.traffic import FarEnd, NearEnd, Order
from tunneld.bench.wire import listening
from tunneld.errors import BenchError

_told = threading.Lock()
ANY_PORT: Final = 0


def main(argv: list[str]) -> None:
    """Carries orders out until there are no more."""
    far = FarEnd(listening(argv[0], ANY_PORT)) if argv else None
    if far is not None:
        _tell({"port": far.port})
    for line in sys.stdin:
        said = json.loads(line)
        threading.Thread(target=_answer, args=(said, far), daemon=True).start()


def _answer(said: dict[str, Any], far: FarEnd | None) -> None:
    number = said["id"]
    try:
        order = Order.from_json(said["order"])
        if far is not None:
            prepared = far.prepare(order)
            _tell({"id": number, "ready": True})
            result = far.carry_out(order, prepared)
        else:
            result = NearEnd(said["host"], said["port"]).carry_out(order)
    except BenchError as error:
        _tell({"id": number, "error": str(error)})
    else:
        _tell({"id": number, "result": result})


def _tell(message: dict[str, Any]) -> None:
    with _told:
        print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
