"""`python -m bench.loading`: data loading speed on one core (read, crop, augment), with and without packing.

    python -m bench.loading --root DATA lsp+lspet packed:people.pack

A command of its own, for docs/data.md; what it does is `bench.pipeline.loading`.
"""

import sys

from bench import pipeline
from pyranet_fast import cli

if __name__ == "__main__":
    sys.exit(cli.run(pipeline.loading))
