"""What two or more of Ratchet's programs share. Never imports torch, transformers or bentoml."""

import os

# ONNX Runtime's wheels for Linux send usage to their maker, from a thread and a database below ~/.cache, unless this is
# set before the import. Nobody has asked for that, and a process with a second thread is not safe to fork.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
