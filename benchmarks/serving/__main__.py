"""``python -m benchmarks.serving``: the comparison."""

from benchmarks.serving.compare import main

main()
