import sys

from optformer.commands.train import main

sys.exit(main())
