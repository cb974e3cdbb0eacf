"""The environments of the libraries compared with: found in ``SEGUE_PEERS``, else made in ``.venv-peers``.

``python -m benchmarks.environments rectools`` prints the path of that environment's interpreter, and makes it first if needed.
The libraries ask for older NumPy and pandas than Segue, and each for others: one virtual environment each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["RECIPES", "interpreter"]

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
RECIPES: dict[str, list[str]] = {
    "rectools": ["rectools[torch]==0.19.0", "pytorch-lightning==2.5.2", TORCH],
    "recbole": ["recbole==1.2.1", "setuptools<81", "numpy<2", "pandas<3", "scipy<1.16", TORCH],
    "xlstm": ["xlstm==2.0.6", "mlstm_kernels==2.0.6", TORCH, "-e", str(ROOT)],
    "implicit": ["implicit==0.7.3", "scikit-surprise==1.1.5", "pandas", "threadpoolctl"],
    "lenskit": ["lenskit==2025.8.1", TORCH],
    "cornac": ["cornac==3.0.1"],
    "spark": ["pyspark==4.3.0", "numpy"],
}
"""What each environment holds; torch comes first where it is, so that nothing else chooses its version.

Surprise lives with implicit.
"""


def interpreter(name: str, install: bool = False) -> Path | None:
    """The Python of ``name``'s environment; ``None`` where there is none, unless ``install`` makes it (minutes)."""
    if name not in RECIPES:
        raise ValueError(f"peer: got '{name}', expected one of {', '.join(RECIPES)}")
    given = os.environ.get("SEGUE_PEERS")
    folder = Path(given) / name if given else ROOT / ".venv-peers" / name
    python = folder / "bin" / "python"
    done = folder / "ready"
    if python.exists() and (given or done.exists()):
        return python.absolute()
    if not install:
        return None
    if given:
        raise ValueError(f"SEGUE_PEERS={given}: no environment '{name}' there ({python} is missing)")
    print(f"making {folder} (once, some minutes)", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    for wanted in ([TORCH], RECIPES[name]) if TORCH in RECIPES[name] else (RECIPES[name],):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, stdout=sys.stderr)
    done.touch()
    return python.absolute()


if __name__ == "__main__":
    try:
        for asked in sys.argv[1:]:
            print(interpreter(asked, install=True))
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"{error}")
