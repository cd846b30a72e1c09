"""What the processes of cases are forked with, where they are forked: everything imported."""

from epochal.train.light_import import import_composer

import_composer()

from epochal.benchmarks.gpu import stages as stages  # noqa: E402
