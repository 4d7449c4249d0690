"""Entry point of the console script `rdfer` and of `python -m rdfer_jax.main`.

rdfer --help
rdfer train --config=synthetic --workdir=runs/mine
rdfer predict --workdir=runs/mine --input=holiday.mp4
python -m rdfer_jax.main --config=configs/dfew.py:2 --workdir=runs/dfew2 [--mode=eval]
"""

import faulthandler
import sys

from absl import flags

from rdfer_jax import __version__, cli


def main(words: list[str] | None = None) -> None:
    """Parses the command line and runs the command."""
    words = sys.argv[1:] if words is None else words
    if words == ["--version"]:
        print(f"rdfer_jax {__version__}")
        return
    try:
        call = cli.parse(words)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if isinstance(call, str):
        print(call)
        return
    faulthandler.enable()
    flags.FLAGS.mark_as_parsed()  # Grain reads its options from there
    # JAX and everything else is imported only now, to keep help and usage errors fast.
    from rdfer_jax import commands

    commands.run(call)


if __name__ == "__main__":
    main()
