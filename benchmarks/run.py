"""``make bench`` and ``make bench-quick``: every benchmark beside its peers."""

from __future__ import annotations

import argparse

import digits_embedding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    quick = parser.parse_args().quick
    digits_embedding.main(digits_embedding.SEEDS[:1] if quick else digits_embedding.SEEDS)


if __name__ == "__main__":
    main()
