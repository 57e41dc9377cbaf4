"""Where things are."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The real files, where someone has put them.
FASHION = Path(os.environ.get("FASHION_MNIST", ROOT.parent / "shared/data/fashion-mnist"))
