"""Whether what the library says about uncertainty is true, by simulation: ``make calibrate``.

A section is a function from settings to checks; a new one is one entry of SECTIONS.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable

import calibration_bootstrap
import calibration_coverage
import calibration_leave_one_out
import calibration_likelihood_ratio
import calibration_ranks
from calibration_check import Check, Settings

SECTIONS: dict[str, Callable[[Settings], Iterable[Check]]] = {
    "coverage": calibration_coverage.checks,
    "earthquakes": calibration_bootstrap.checks,
    "leave-one-out": calibration_leave_one_out.checks,
    "likelihood-ratio": calibration_likelihood_ratio.checks,
    "ranks": calibration_ranks.checks,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--simulations", type=int, default=600)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    unknown = [name for name in given.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}: there are {', '.join(SECTIONS)}")
    settings = Settings(given.simulations, given.workers, given.seed)
    failed = 0
    for name in given.sections or SECTIONS:
        began = time.monotonic()
        print(f"{name} ({settings.simulations} simulations)", flush=True)
        for check in SECTIONS[name](settings):
            print(f"  {check}", flush=True)
            failed += not check.holds
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    print(f"{failed} checks failed" if failed else "all checks hold")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
