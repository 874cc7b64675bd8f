"""anyws beside other WebSocket libraries: `python -m benchmarks --help`, and README.md here.

`python -m` puts the repository first on the path, and with it the modules of `anyws` as they stand
there, never with a compiled extension. What is to be measured is the installed package, so this
folder's parent goes to the end.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [*(place for place in sys.path if Path(place).resolve() != _ROOT), str(_ROOT)]
