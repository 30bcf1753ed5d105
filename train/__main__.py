import sys

from optformer.train.commands import main

sys.exit(main())
