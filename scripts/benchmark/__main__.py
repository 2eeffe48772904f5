import sys
from pathlib import Path

if __name__ == "__main__":
    # `python scripts/benchmark` puts the folder itself on the path; its parent is needed to import it as a package.
    sys.path[0] = str(Path(__file__).parents[1])
    from benchmark.run import main

    sys.exit(main())
