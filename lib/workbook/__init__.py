"""The library behind the fine-tuning workbook. One module, one idea."""

import logging
import warnings

# Three notices that say nothing to a learner: a widget we do not use, an optional kernel we do not need, a renamed flag.
warnings.filterwarnings("ignore", message="IProgress not found")
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
