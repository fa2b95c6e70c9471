"""`python -m oliveira.kernels`: compiles the kernels if they are not there yet, so that no first answer waits for it.

`make install` says it. A machine without a compiler is told so and goes on: torch does the work.
"""

from __future__ import annotations

import logging
import time

from oliveira import terminal
from oliveira.kernels.build import BuildError, build


def main() -> None:
    terminal.set_up()
    logging.basicConfig(format="oliveira: %(message)s")
    began = time.monotonic()
    try:
        library = build()
    except BuildError as error:
        print(f"oliveira: {error}")
    else:
        if (seconds := time.monotonic() - began) >= 1:  # it was not there before
            print(f"oliveira: kernels ready after {seconds:.0f} seconds ({library}).")


if __name__ == "__main__":
    main()
