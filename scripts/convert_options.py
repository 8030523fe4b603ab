"""Write option files of BasicSR, NAFNet, or EDVR's and mmsr's code of 2019 in vsr's vocabulary.

python scripts/convert_options.py OLD.yml [-o NEW.yml]     without -o it is printed
python scripts/convert_options.py FOLDER -o NEW_FOLDER     every .yml and .yaml below it
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.config.convert import convert
from vsr.utils import logs
from vsr.utils.files import atomic_write


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="the option file, or a folder of them")
    parser.add_argument("-o", "--output", type=Path, help="the file, or folder, to write")
    parser.add_argument("--force", action="store_true", help="write over files that are there")
    given = parser.parse_args()
    logs.setup()
    if not given.old.is_dir():
        return 0 if _one(given.old, given.output, force=given.force) else 1
    files = sorted(path for path in given.old.rglob("*") if path.suffix in (".yml", ".yaml"))
    if given.output is None or not files:
        wanted = "-o FOLDER beside a folder" if files else "a folder with .yml files"
        print(f"error: {given.old}: expected {wanted}, got none.", file=sys.stderr)
        return 1
    good = [_one(file, given.output / file.relative_to(given.old), force=given.force) for file in files]
    print(f"{sum(good)} of {len(files)} files are in {given.output}", file=sys.stderr)
    return 0 if all(good) else 1


def _one(old: Path, new: Path | None, *, force: bool) -> bool:
    """Convert one file; False, after a message, if it cannot be."""
    if new is not None and new.exists() and not force:
        print(f"error: {new}: expected no such file, found one. Choose another name, or add --force.", file=sys.stderr)
        return False
    try:
        converted = convert(old)
        if new is None:
            sys.stdout.write(converted.text)
        else:
            new.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(new, "w") as stream:
                stream.write(converted.text)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    if converted.lost:
        lines = ", ".join(map(str, converted.lost))
        print(f"{old}: left out the comments of keys that mean nothing here: lines {lines}", file=sys.stderr)
    return True


if __name__ == "__main__":
    sys.exit(main())
