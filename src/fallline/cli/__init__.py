"""The command `fallline`: reads arguments, calls the library, prints."""

import sys


def main() -> None:
    """Run the command line; without the extra `lab`, say in one sentence how to get it."""
    try:
        from fallline.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("fallline", "torch"):
            raise
        sys.exit(f'fallline: the command line needs {error.name}; install it with: pip install "fallline[lab]"')
    sys.exit(run())
